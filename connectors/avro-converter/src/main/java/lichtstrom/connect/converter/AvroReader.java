package lichtstrom.connect.converter;

import java.nio.BufferUnderflowException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.avro.Schema;
import org.apache.kafka.connect.data.Field;
import org.apache.kafka.connect.data.Struct;
import org.apache.kafka.connect.errors.DataException;

/**
 * Reads one Avro body into Connect's values.
 *
 * <p>Avro's own readers trust lengths and counts that a record states. Here every length is compared with the bytes
 * that are left before anything is allocated, and a record never yields more items of arrays and maps than it has
 * bytes, so that a body of n bytes takes memory in proportion to n whatever it holds.
 */
final class AvroReader {
    private static final byte[] NOTHING = {};

    private final ByteBuffer body;
    private int itemsLeft;

    private AvroReader(ByteBuffer body) {
        this.body = body.slice().order(ByteOrder.LITTLE_ENDIAN);
        this.itemsLeft = body.remaining();
    }

    /** Return the record that fills {@code body}; throws DataException for anything else. */
    static Struct read(Schema avro, org.apache.kafka.connect.data.Schema connect, ByteBuffer body) {
        AvroReader reader = new AvroReader(body);
        Struct found;
        try {
            found = reader.record(avro, connect);
        } catch (BufferUnderflowException error) {
            throw new DataException("it is cut short", error);
        }
        if (reader.body.hasRemaining()) {
            throw new DataException(reader.body.remaining() + " bytes are left over behind it");
        }
        return found;
    }

    private Struct record(Schema avro, org.apache.kafka.connect.data.Schema connect) {
        Struct found = new Struct(connect);
        for (Schema.Field field : avro.getFields()) {
            Field target = connect.field(field.name());
            found.put(target, value(field.schema(), target.schema()));
        }
        return found;
    }

    private Object value(Schema avro, org.apache.kafka.connect.data.Schema connect) {
        return switch (avro.getType()) {
            case RECORD -> record(avro, connect);
            case ARRAY -> array(avro, connect);
            case MAP -> map(avro, connect);
            case UNION -> union(avro, connect);
            case ENUM -> avro.getEnumSymbols().get(index(avro.getEnumSymbols().size(), "enum symbol"));
            case STRING -> text();
            case BYTES -> bytes(length());
            case FIXED -> bytes(checked(avro.getFixedSize()));
            case INT -> integer();
            case LONG -> number();
            case FLOAT -> body.getFloat();
            case DOUBLE -> body.getDouble();
            case BOOLEAN -> flag();
            case NULL -> null;
        };
    }

    private Object union(Schema avro, org.apache.kafka.connect.data.Schema connect) {
        List<Schema> branches = avro.getTypes();
        return value(branches.get(index(branches.size(), "union branch")), connect);
    }

    private List<Object> array(Schema avro, org.apache.kafka.connect.data.Schema connect) {
        int first = block();
        // What is empty is shared: a record may state many of them in a byte each.
        List<Object> found = first == 0 ? List.of() : new ArrayList<>(first);
        for (int count = first; count > 0; count = block()) {
            for (int i = 0; i < count; i++) {
                found.add(value(avro.getElementType(), connect.valueSchema()));
            }
        }
        return found;
    }

    private Map<String, Object> map(Schema avro, org.apache.kafka.connect.data.Schema connect) {
        int first = block();
        Map<String, Object> found = first == 0 ? Map.of() : new LinkedHashMap<>(2);
        for (int count = first; count > 0; count = block()) {
            for (int i = 0; i < count; i++) {
                found.put(text(), value(avro.getValueType(), connect.valueSchema()));
            }
        }
        return found;
    }

    /** The number of items in the next block; 0 ends an array or a map. */
    private int block() {
        long count = number();
        if (count < 0) {
            length(); // of the block in bytes, for readers that skip it
            count = -count;
        }
        // The smallest long is its own negative.
        if (count < 0 || count > itemsLeft) {
            throw new DataException("it states " + Long.toUnsignedString(count) + " items in " + body.limit()
                + " bytes");
        }
        itemsLeft -= (int) count;
        return (int) count;
    }

    private String text() {
        int length = length();
        if (length == 0) {
            return "";
        }
        ByteBuffer encoded = ByteBuffer.wrap(bytes(length));
        try {
            return StandardCharsets.UTF_8.newDecoder().decode(encoded).toString();
        } catch (CharacterCodingException error) {
            throw new DataException("a text in it is not UTF-8", error);
        }
    }

    private byte[] bytes(int length) {
        if (length == 0) {
            return NOTHING;
        }
        byte[] found = new byte[length];
        body.get(found);
        return found;
    }

    private int length() {
        return checked(number());
    }

    private int checked(long length) {
        if (length < 0 || length > body.remaining()) {
            throw new DataException("it states a length of " + length + " where " + body.remaining()
                + " bytes are left");
        }
        return (int) length;
    }

    private int index(int size, String what) {
        long found = number();
        if (found < 0 || found >= size) {
            throw new DataException("it states " + what + " " + found + " of " + size);
        }
        return (int) found;
    }

    private boolean flag() {
        byte found = body.get();
        if (found != 0 && found != 1) {
            throw new DataException("a boolean in it is neither 0 nor 1");
        }
        return found == 1;
    }

    private int integer() {
        long found = number();
        if (found != (int) found) {
            throw new DataException("an int in it has more than 32 bits");
        }
        return (int) found;
    }

    /** A zig-zag number of variable length: seven bits a byte, the lowest first. */
    private long number() {
        long found = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            byte next = body.get();
            found |= (long) (next & 0x7f) << shift;
            if (next >= 0) {
                return (found >>> 1) ^ -(found & 1);
            }
        }
        throw new DataException("a number in it has more than 64 bits");
    }
}
