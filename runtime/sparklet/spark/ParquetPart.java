package org.apache.hadoop.fs.s3a;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSInputStream;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.mapred.InvalidFileTypeException;
import org.apache.parquet.format.ColumnChunk;
import org.apache.parquet.format.ColumnMetaData;
import org.apache.parquet.format.FileMetaData;
import org.apache.parquet.format.RowGroup;
import org.apache.parquet.format.Util;

/**
 * A part of a Parquet file: the row groups whose middles are in a range of its bytes, which is Spark's rule for tasks.
 *
 * Readers see the file's own bytes, so that pages, indexes and Bloom filters keep their places, followed by a footer
 * that names only these row groups.
 */
public class ParquetPart {
    private static final int TRAILER_BYTES = 8; // length of the footer, PAR1
    private final long start;
    private final long end;
    private FileStatus whole;
    private long footerAt;
    private byte[] footer;

    public ParquetPart(long start, long end) {
        this.start = start;
        this.end = end;
    }

    /** Read the file's own footer, and make the part's footer. */
    public void read(FileStatus whole, FSDataInputStream file) throws IOException {
        try {
            byte[] trailer = new byte[TRAILER_BYTES];
            file.readFully(whole.getLen() - TRAILER_BYTES, trailer);
            byte[] document = new byte[ByteBuffer.wrap(trailer).order(ByteOrder.LITTLE_ENDIAN).getInt()];
            footerAt = whole.getLen() - TRAILER_BYTES - document.length;
            file.readFully(footerAt, document);
            FileMetaData meta = Util.readFileMetaData(new ByteArrayInputStream(document));
            if (meta.isSetEncryption_algorithm()) {
                throw new InvalidFileTypeException(
                        whole.getPath() + " is encrypted, and its footer signed: plan without --split");
            }
            ByteArrayOutputStream written = new ByteArrayOutputStream();
            Util.writeFileMetaData(shortened(meta, whole.getLen()), written);
            int length = written.size();
            written.write(ByteBuffer.allocate(4).order(ByteOrder.LITTLE_ENDIAN).putInt(length).array());
            written.write(trailer, 4, 4);
            footer = written.toByteArray();
            this.whole = whole;
        } finally {
            file.close();
        }
    }

    private FileMetaData shortened(FileMetaData meta, long length) {
        List kept = new ArrayList();
        long rows = 0;
        for (Iterator groups = meta.getRow_groups().iterator(); groups.hasNext();) {
            RowGroup group = (RowGroup) groups.next();
            long middle = Math.max(0, Math.min(length - 1, middle(group))); // also with a wrong footer within the file
            if (start <= middle && middle < end) {
                kept.add(group);
                rows += group.getNum_rows();
            }
        }
        meta.setRow_groups(kept);
        meta.setNum_rows(rows);
        return meta;
    }

    private static long middle(RowGroup group) {
        long first = Long.MAX_VALUE;
        long size = 0;
        for (Iterator chunks = group.getColumns().iterator(); chunks.hasNext();) {
            ColumnMetaData column = ((ColumnChunk) chunks.next()).getMeta_data();
            long dictionary = column.getDictionary_page_offset(); // its page comes first, if there is one
            long data = column.getData_page_offset();
            first = Math.min(first, dictionary > 0 ? Math.min(data, dictionary) : data);
            size += column.getTotal_compressed_size();
        }
        return first + size / 2;
    }

    /** The file's own status. */
    public FileStatus whole() {
        return whole;
    }

    /** The status of the part, as readers see it. */
    public FileStatus status() {
        long length = footerAt + footer.length;
        return new FileStatus(length, false, 1, whole.getBlockSize(), whole.getModificationTime(), whole.getPath());
    }

    /** The content of the part, as readers see it; ``file`` is the whole file. */
    public FSDataInputStream open(FSDataInputStream file) {
        return new FSDataInputStream(new Reading(file));
    }

    private class Reading extends FSInputStream {
        private final FSDataInputStream file;
        private long at;

        Reading(FSDataInputStream file) {
            this.file = file;
        }

        public void seek(long place) {
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
            int count = (int) Math.min(length, (at < footerAt ? footerAt : footerAt + footer.length) - at);
            if (count <= 0) {
                return length == 0 ? 0 : -1;
            }
            if (at < footerAt) {
                file.seek(at);
                count = file.read(into, place, count);
            } else {
                System.arraycopy(footer, (int) (at - footerAt), into, place, count);
            }
            at += count;
            return count;
        }

        public void close() throws IOException {
            file.close();
        }
    }
}
