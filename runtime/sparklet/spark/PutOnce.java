package org.apache.hadoop.fs.s3a;

import com.amazonaws.services.s3.model.AmazonS3Exception;
import com.amazonaws.services.s3.model.PutObjectRequest;
import java.io.File;
import java.io.IOException;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.util.functional.CallableRaisingIOE;

/** Makes a file an object whose key must have none yet, with the S3A of Hadoop 3.3, which knows no such condition. */
class PutOnce {
    /** Whether it was made; after a lost answer also false, so ask whose the object is. */
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
                } catch (AmazonS3Exception error) { // S3A would try a 412 again, as it does a 409, of two PUTs at once
                    if (error.getStatusCode() == 412) {
                        return Boolean.FALSE;
                    }
                    throw error;
                }
            }
        }).equals(Boolean.TRUE);
    }
}
