package lichtstrom.connect.converter;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.List;
import org.apache.kafka.connect.errors.DataException;

/** Numbers packed as bytes, little-endian without padding. */
enum Packed {
    INT64(8) {
        @Override
        long get(ByteBuffer packed) {
            return packed.getLong();
        }

        @Override
        void put(ByteBuffer packed, long value) {
            packed.putLong(value);
        }
    },
    UINT32(4) {
        @Override
        long get(ByteBuffer packed) {
            return Integer.toUnsignedLong(packed.getInt());
        }

        @Override
        void put(ByteBuffer packed, long value) {
            if (value >>> 32 != 0) {
                throw new DataException(value + " has more than 32 bits");
            }
            packed.putInt((int) value);
        }
    };

    private final int nbytes;

    Packed(int nbytes) {
        this.nbytes = nbytes;
    }

    abstract long get(ByteBuffer packed);

    abstract void put(ByteBuffer packed, long value);

    List<Long> unpack(String name, byte[] packed) {
        if (packed.length % nbytes != 0) {
            throw new DataException(name + " has " + packed.length + " bytes, not a multiple of " + nbytes);
        }
        ByteBuffer rest = ByteBuffer.wrap(packed).order(ByteOrder.LITTLE_ENDIAN);
        List<Long> found = new ArrayList<>(packed.length / nbytes);
        while (rest.hasRemaining()) {
            found.add(get(rest));
        }
        return found;
    }

    byte[] pack(String name, List<Long> values) {
        ByteBuffer packed = ByteBuffer.allocate(nbytes * values.size()).order(ByteOrder.LITTLE_ENDIAN);
        for (Long value : values) {
            if (value == null) {
                throw new DataException(name + " holds a null");
            }
            put(packed, value);
        }
        return packed.array();
    }
}
