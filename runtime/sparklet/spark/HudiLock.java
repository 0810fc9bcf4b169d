package org.apache.hudi.client.transaction.lock;

import com.amazonaws.services.s3.AmazonS3;
import com.amazonaws.services.s3.model.*;
import java.io.*;
import java.lang.reflect.Field;
import java.util.UUID;
import java.util.function.Supplier;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.LocalFileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.s3a.S3AFileSystem;
import org.apache.hudi.client.transaction.lock.metrics.HoodieLockMetrics;
import org.apache.hudi.client.transaction.lock.models.*;
import org.apache.hudi.common.config.LockConfiguration;
import org.apache.hudi.common.util.Functions;
import org.apache.hudi.common.util.Option;
import org.apache.hudi.common.util.collection.Pair;
import org.apache.hudi.storage.StorageConfiguration;
import org.apache.spark.SparkContext;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Hudi's lock in the table's folder, with S3A's client, since Hudi's own client for S3 needs another SDK.
 *
 * It also works for tables in local folders. In other file systems it only locks out the writers of the same JVM.
 */
public class HudiLock extends StorageBasedLockProvider {
    private static final Logger LOG = LoggerFactory.getLogger(HudiLock.class);

    public HudiLock(LockConfiguration lock, StorageConfiguration storage) {
        this(lock, storage, null);
    }

    public HudiLock(LockConfiguration lock, StorageConfiguration storage, HoodieLockMetrics metrics) {
        super(UUID.randomUUID().toString(), lock.getConfig(), new Heartbeats(), new Clients(), LOG, metrics);
    }

    private static class Heartbeats implements Functions.Function3 {
        public Object apply(Object owner, Object everyMs, Object renew) {
            return new LockProviderHeartbeatManager((String) owner, ((Long) everyMs).longValue(), (Supplier) renew);
        }
    }

    private static class Clients implements Functions.Function3 {
        public Object apply(Object owner, Object file, Object properties) {
            Path path = new Path((String) file);
            String place = path.toUri().getPath(), kind = "fs." + path.toUri().getScheme() + ".impl";
            Configuration conf = SparkContext.getOrCreate().hadoopConfiguration();
            if ("StagedS3A".equals(conf.get(kind))) { // which is for readers: the lock uses the cached file system
                conf = new Configuration(conf);
                conf.set(kind, "org.apache.hadoop.fs.s3a.TaskS3A");
                conf.setBoolean(kind + ".disable.cache", false);
            }
            try {
                FileSystem files = path.getFileSystem(conf);
                if (files instanceof S3AFileSystem) {
                    return new InS3((S3AFileSystem) files, place.substring(1));
                }
                return new OnDisk(new File(files instanceof LocalFileSystem ? place
                        : System.getProperty("java.io.tmpdir") + "/lock-" + UUID.nameUUIDFromBytes(place.getBytes())));
            } catch (Exception error) {
                throw new IllegalStateException(error);
            }
        }
    }

    /** Reads and writes the lock file, which is only replaced if it has the expected version. */
    private abstract static class Client implements StorageLockClient {
        /** The lock file; null if there is none. */
        abstract StorageLockFile read() throws Exception;

        /** Replace the file of this version ("" if there must be none); return the new version, or null if it differs. */
        abstract String replace(String version, byte[] bytes) throws Exception;

        public Pair tryUpsertLockFile(StorageLockData data, Option previous) {
            try {
                String version = previous.isPresent() ? ((StorageLockFile) previous.get()).getVersionId() : "";
                String replaced = replace(version, StorageLockFile.toByteArray(data));
                StorageLockFile file = replaced == null ? read() : new StorageLockFile(data, replaced);
                boolean isOwn = file != null && file.getOwner().equals(data.getOwner()) // also if S3's answer was lost
                        && file.isExpired() == data.isExpired() && file.getValidUntilMs() == data.getValidUntil();
                return isOwn ? Pair.of(LockUpsertResult.SUCCESS, Option.of(file))
                        : Pair.of(LockUpsertResult.ACQUIRED_BY_OTHERS, Option.empty());
            } catch (Exception error) {
                LOG.warn("Hudi's lock could not be written", error);
                return Pair.of(LockUpsertResult.UNKNOWN_ERROR, Option.empty());
            }
        }

        public Pair readCurrentLockFile() {
            try {
                StorageLockFile file = read();
                return Pair.of(file == null ? LockGetResult.NOT_EXISTS : LockGetResult.SUCCESS, Option.ofNullable(file));
            } catch (Exception error) {
                LOG.warn("Hudi's lock could not be read", error);
                return Pair.of(LockGetResult.UNKNOWN_ERROR, Option.empty());
            }
        }

        public Option readObject(String path, boolean isRare) { // only for Hudi's audit of locks, which is not used
            return Option.empty();
        }

        public boolean writeObject(String path, String content) {
            return false;
        }

        public void close() {
        }
    }

    private static class InS3 extends Client {
        private final S3AFileSystem s3a;
        private final AmazonS3 client;
        private final String key;

        InS3(S3AFileSystem s3a, String key) throws Exception {
            Field own = S3AFileSystem.class.getDeclaredField("s3"); // the getter logs a warning
            own.setAccessible(true);
            this.client = (AmazonS3) own.get(s3a);
            this.s3a = s3a;
            this.key = key;
        }

        StorageLockFile read() throws Exception {
            try {
                S3Object object = client.getObject(s3a.getRequestFactory().newGetObjectRequest(key));
                return StorageLockFile.createFromStream(object.getObjectContent(), object.getObjectMetadata().getETag());
            } catch (AmazonS3Exception error) {
                if (error.getStatusCode() == 404) {
                    return null;
                }
                throw error;
            }
        }

        String replace(String version, byte[] bytes) throws Exception {
            ObjectMetadata metadata = s3a.getRequestFactory().newObjectMetadata(bytes.length);
            PutObjectRequest put =
                    s3a.getRequestFactory().newPutObjectRequest(key, metadata, new ByteArrayInputStream(bytes));
            put.putCustomRequestHeader(version.isEmpty() ? "If-None-Match" : "If-Match",
                    version.isEmpty() ? "*" : "\"" + version + "\"");
            try {
                return client.putObject(put).getETag();
            } catch (AmazonS3Exception error) {
                if (error.getStatusCode() == 404 || error.getStatusCode() == 409 || error.getStatusCode() == 412) {
                    return null;
                }
                throw error;
            }
        }
    }

    /** The lock in a local file, whose content is also its version. */
    private static class OnDisk extends Client {
        private final File file;

        OnDisk(File file) {
            this.file = file;
        }

        StorageLockFile read() throws Exception {
            String content = swap(null, null);
            return content.isEmpty() ? null
                    : StorageLockFile.createFromStream(new ByteArrayInputStream(content.getBytes()), content);
        }

        String replace(String version, byte[] bytes) throws Exception {
            return swap(version, bytes).equals(version) ? new String(bytes) : null;
        }

        /** Return the file's content; if it is what was expected, replace it. */
        private String swap(String expected, byte[] bytes) throws IOException {
            file.getParentFile().mkdirs();
            synchronized (OnDisk.class) { // since a process can lock a file only once at a time
                RandomAccessFile opened = new RandomAccessFile(file, "rw");
                try {
                    opened.getChannel().lock(); // until the file is closed
                    byte[] content = new byte[(int) opened.length()];
                    opened.readFully(content);
                    if (new String(content).equals(expected)) {
                        opened.setLength(0);
                        opened.write(bytes);
                    }
                    return new String(content);
                } finally {
                    opened.close();
                }
            }
        }
    }
}
