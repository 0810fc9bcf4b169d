package org.apache.hadoop.fs.s3a;

import java.io.EOFException;
import java.io.IOException;
import java.io.InterruptedIOException;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSInputStream;

/**
 * Reads a task's small inputs as a whole, each once and several at a time. Spark itself reads one file after the other,
 * and opens each twice: for its header or footer, and for its rows.
 *
 * An input that cannot be read in this way is read like any other file, which then throws the cause.
 */
public abstract class SmallInputs {
    public static final long MAX_BYTES = 8388608;
    public static final long MAX_BYTES_TOGETHER = 33554432;
    private static final int READERS = 8;
    private final Map bodies = new ConcurrentHashMap(); // bucket/key -> Future of the bytes
    private final ExecutorService readers = Executors.newFixedThreadPool(READERS);
    private long bytes;

    /** Open an object in S3, by the ETag of its status. */
    public abstract FSDataInputStream opened(S3AFileStatus status) throws IOException;

    /** Add bytes to those that this thread's Spark task has read. */
    public abstract void count(int bytes);

    /** Read a file's bytes from ``start`` on, if they are not more than ``most`` and all inputs are not too many. */
    public void read(String key, S3AFileStatus status, long start, long most) {
        long length = status.getLen() - start;
        if (length > 0 && length <= most && bytes + length <= MAX_BYTES_TOGETHER) {
            bytes += length;
            bodies.put(key, readers.submit(new Whole(status, start)));
        }
    }

    /** Let the threads end, after the last call of ``read``. */
    public void noMore() {
        readers.shutdown();
    }

    /** An input's bytes; null if the input must be read from S3. */
    public FSInputStream stream(String key) throws IOException {
        Future body = (Future) bodies.get(key);
        try {
            return body == null ? null : new InMemory((byte[]) body.get());
        } catch (ExecutionException failed) {
            bodies.remove(key);
            return null;
        } catch (InterruptedException killed) {
            Thread.currentThread().interrupt();
            throw new InterruptedIOException("the task was killed");
        }
    }

    public void close() {
        readers.shutdownNow();
        bodies.clear();
    }

    private class Whole implements Callable {
        private final S3AFileStatus status;
        private final long start;

        Whole(S3AFileStatus status, long start) {
            this.status = status;
            this.start = start;
        }

        public Object call() throws IOException {
            byte[] body = new byte[(int) (status.getLen() - start)];
            FSDataInputStream stream = opened(status);
            try {
                stream.seek(start);
                stream.readFully(body);
            } finally {
                stream.close();
            }
            return body;
        }
    }

    private class InMemory extends FSInputStream {
        private final byte[] body;
        private int at;

        InMemory(byte[] body) {
            this.body = body;
        }

        public void seek(long to) throws IOException {
            if (to < 0 || to > body.length) {
                throw new EOFException("seek to " + to + " of " + body.length + " bytes");
            }
            at = (int) to;
        }

        public long getPos() {
            return at;
        }

        public boolean seekToNewSource(long to) {
            return false;
        }

        public int available() {
            return body.length - at;
        }

        public int read() {
            if (at == body.length) {
                return -1;
            }
            count(1);
            return body[at++] & 255;
        }

        public int read(byte[] into, int offset, int length) {
            int taken = Math.min(length, body.length - at);
            if (taken == 0) {
                return length == 0 ? 0 : -1;
            }
            System.arraycopy(body, at, into, offset, taken);
            at += taken;
            count(taken);
            return taken;
        }
    }
}
