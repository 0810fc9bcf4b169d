package org.apache.hadoop.fs.s3a;

import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.Path;

/** Uploads a file if its key has no object yet, with the S3A of Hadoop 3.4, which has an option for this condition. */
class PutOnce {
    /** Whether the object was made. It may be ours even after false, if an answer of S3 was lost: check its writer. */
    static boolean put(S3AFileSystem s3a, Path path, File file, String name, String value) throws IOException {
        FSDataOutputStream object = (FSDataOutputStream) s3a.createFile(path).recursive().overwrite(false)
                .opt("fs.s3a.create.header." + name, value).must("fs.option.create.conditional.overwrite", true).build();
        try {
            Files.copy(file.toPath(), object);
            object.close();
            return true;
        } catch (RemoteFileChangedException exists) {
            return false;
        }
    }
}
