package org.apache.hadoop.fs.s3a;

import java.io.EOFException;
import java.io.IOException;
import org.apache.hadoop.fs.FSInputStream;

/** A slice of a text, as readers see it: the text's header, then the bytes of the stream ``own`` from ``ownAt`` on. */
public class TextPart extends FSInputStream {
    private final byte[] header;
    private final FSInputStream own;
    private final long ownAt;
    private long at;

    public TextPart(byte[] header, FSInputStream own, long ownAt) {
        this.header = header;
        this.own = own;
        this.ownAt = ownAt;
    }

    public void seek(long place) throws IOException {
        if (place < 0) {
            throw new EOFException("seek to " + place);
        }
        at = place;
    }

    public long getPos() {
        return at;
    }

    public boolean seekToNewSource(long target) {
        return false;
    }

    public int read() throws IOException {
        byte[] one = new byte[1];
        return read(one, 0, 1) < 0 ? -1 : one[0] & 0xff;
    }

    public int read(byte[] into, int place, int length) throws IOException {
        int count;
        if (at < header.length) {
            count = (int) Math.min(length, header.length - at);
            System.arraycopy(header, (int) at, into, place, count);
        } else {
            own.seek(ownAt + at - header.length);
            count = own.read(into, place, length);
        }
        at += Math.max(0, count);
        return count;
    }

    public void close() throws IOException {
        own.close();
    }
}
