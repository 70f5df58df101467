package lichtstrom.connect.hdf5;

import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.connect.sink.SinkRecord;

/** Questions to the writer, and its answers: pipeline/connectors/messages.py has the other side. */
final class Message {
    private static final int VERSION = 1;
    private static final int HELLO = 1;
    private static final int OPEN = 2;
    private static final int RECORDS = 3;
    private static final int STATE = 4;
    private static final int REPORTED = 5;
    private static final int CLOSE = 6;

    private Message() {}

    /** A record that is, or holds, something that cannot be written. */
    record Trouble(int partition, long offset, String reason) {}

    /** How far the log is in the files, per partition; {@code done} is the finished file. */
    record State(boolean isFull, String done, Map<Integer, Long> markers, List<Trouble> troubles) {}

    /** The writer cannot go on: not now, or not at all. */
    static final class FailedException extends IOException {
        private static final long serialVersionUID = 1L;
        final boolean retriable;

        FailedException(String reason, boolean retriable) {
            super(reason);
            this.retriable = retriable;
        }
    }

    @FunctionalInterface
    private interface Body {
        void write(DataOutputStream out) throws IOException;
    }

    static byte[] hello(Map<String, String> settings) {
        return message(
                HELLO,
                out -> {
                    out.writeInt(VERSION);
                    out.writeInt(settings.size());
                    for (Map.Entry<String, String> entry : settings.entrySet()) {
                        bytes(out, entry.getKey().getBytes(StandardCharsets.UTF_8));
                        bytes(out, entry.getValue().getBytes(StandardCharsets.UTF_8));
                    }
                });
    }

    static byte[] open(Collection<Integer> partitions) {
        return message(OPEN, out -> integers(out, partitions));
    }

    static byte[] close() {
        return message(CLOSE, out -> {});
    }

    static byte[] state() {
        return message(STATE, out -> {});
    }

    static byte[] records(List<SinkRecord> records) {
        return message(
                RECORDS,
                out -> {
                    out.writeInt(records.size());
                    for (SinkRecord record : records) {
                        out.writeInt(record.kafkaPartition());
                        out.writeLong(record.kafkaOffset());
                        out.writeLong(record.timestamp() == null ? -1 : record.timestamp());
                        bytes(out, (byte[]) record.key());
                        bytes(out, (byte[]) record.value());
                    }
                });
    }

    static byte[] reported(List<Trouble> troubles) {
        return message(
                REPORTED,
                out -> {
                    out.writeInt(troubles.size());
                    for (Trouble trouble : troubles) {
                        out.writeInt(trouble.partition());
                        out.writeLong(trouble.offset());
                    }
                });
    }

    /** Read the answer to HELLO; returns the path of the file to come. */
    static String readReady(DataInputStream in) throws IOException {
        expect(in, 1);
        return text(in);
    }

    /** Read the answer to everything else. */
    static State readState(DataInputStream in) throws IOException {
        expect(in, 2);
        boolean isFull = in.readByte() != 0;
        String done = text(in);
        Map<Integer, Long> markers = new HashMap<>();
        for (int left = in.readInt(); left > 0; left--) {
            markers.put(in.readInt(), in.readLong());
        }
        List<Trouble> troubles = new ArrayList<>();
        for (int left = in.readInt(); left > 0; left--) {
            troubles.add(new Trouble(in.readInt(), in.readLong(), text(in)));
        }
        return new State(isFull, done, markers, troubles);
    }

    private static void expect(DataInputStream in, int wanted) throws IOException {
        in.readInt(); // length: the fields say where they end
        int kind = in.readByte();
        if (kind == 3) {
            boolean retriable = in.readByte() != 0;
            throw new FailedException(text(in), retriable);
        }
        if (kind != wanted) {
            throw new IOException("the writer gave answer " + kind + ", not " + wanted);
        }
    }

    private static byte[] message(int kind, Body body) {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try (DataOutputStream out = new DataOutputStream(bytes)) {
            out.writeInt(0);
            out.writeByte(kind);
            body.write(out);
        } catch (IOException error) {
            throw new UncheckedIOException(error); // memory does not fail
        }
        byte[] all = bytes.toByteArray();
        ByteBuffer.wrap(all).putInt(all.length - 4);
        return all;
    }

    private static void bytes(DataOutputStream out, byte[] data) throws IOException {
        out.writeInt(data == null ? -1 : data.length);
        if (data != null) {
            out.write(data);
        }
    }

    private static void integers(DataOutputStream out, Collection<Integer> values)
            throws IOException {
        out.writeInt(values.size());
        for (int value : values) {
            out.writeInt(value);
        }
    }

    private static String text(DataInputStream in) throws IOException {
        byte[] data = new byte[in.readInt()];
        in.readFully(data);
        return new String(data, StandardCharsets.UTF_8);
    }
}
