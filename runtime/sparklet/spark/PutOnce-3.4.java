package org.apache.hadoop.fs.s3a;

import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.Path;

/** Makes a file an object whose key must have none yet, with the S3A of Hadoop 3.4, which does so if it is asked. */
class PutOnce {
    /** Whether it was made; after a lost answer also false, so ask whose the object is. */
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
