package org.apache.hadoop.fs.s3a;

import com.amazonaws.services.s3.model.AmazonS3Exception;
import com.amazonaws.services.s3.model.PutObjectRequest;
import java.io.File;
import java.io.IOException;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.util.functional.CallableRaisingIOE;

/** Uploads a file if its key has no object yet, with the S3A of Hadoop 3.3, which has no option for this condition. */
class PutOnce {
    /** Whether the object was made. It may be ours even after false, if an answer of S3 was lost: check its writer. */
    static boolean put(final S3AFileSystem s3a, Path path, File file, String name, String value) throws IOException {
        String key = s3a.pathToKey(path);
        final PutObjectRequest put =
                s3a.getRequestFactory().newPutObjectRequest(key, s3a.newObjectMetadata(file.length()), file);
        put.putCustomRequestHeader("If-None-Match", "*");
        put.getMetadata().addUserMetadata(name, value);
        return s3a.createStoreContext().getInvoker().retry("PUT", key, true, new CallableRaisingIOE() {
            public Object apply() throws IOException {
                try {
                    s3a.putObjectDirect(put);
                    return Boolean.TRUE;
                } catch (AmazonS3Exception error) { // S3A would retry a 412, as it does a 409 (two PUTs at once)
                    if (error.getStatusCode() == 412) {
                        return Boolean.FALSE;
                    }
                    throw error;
                }
            }
        }).equals(Boolean.TRUE);
    }
}
