package lichtstrom.connect.converter;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.function.Consumer;
import java.util.function.Function;
import org.apache.kafka.connect.data.Field;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.data.SchemaBuilder;
import org.apache.kafka.connect.data.Struct;
import org.apache.kafka.connect.errors.DataException;

/**
 * A segment's columns of attributes: one array a column, in the field named by its kind, null where a frame lacks the
 * attribute.
 */
final class Columns {
    private static final String NAME = "org.lichtstrom.Column";
    private static final String INT64 = "int64";
    private static final String FLOAT64 = "float64";
    private static final String TEXT = "text";
    private static final byte[] NONE = {};

    private static final Schema COLUMN = SchemaBuilder.struct().name(NAME).doc("One attribute of all frames.")
        .field("name", Schema.STRING_SCHEMA)
        .field("kind", SchemaBuilder.string().doc("int64, float64 or text: the field that holds the values").build())
        .field(INT64, SchemaBuilder.array(Schema.OPTIONAL_INT64_SCHEMA).optional().build())
        .field(FLOAT64, SchemaBuilder.array(Schema.OPTIONAL_FLOAT64_SCHEMA).optional().build())
        .field(TEXT, SchemaBuilder.array(Schema.OPTIONAL_STRING_SCHEMA).optional().build())
        .build();
    static final Schema SCHEMA = SchemaBuilder.array(COLUMN)
        .doc("attributes as columns; null: the frame lacks it").build();

    private Columns() {
    }

    static boolean isColumns(Field field) {
        Schema schema = field.schema();
        return schema.type() == Schema.Type.ARRAY && NAME.equals(schema.valueSchema().name());
    }

    static List<Struct> unpack(List<?> columns, int count) {
        return columns.stream().map(column -> unpack((Struct) column, count)).toList();
    }

    private static Struct unpack(Struct column, int count) {
        String name = column.getString("name");
        String kind = column.getString("kind");
        byte[] values = column.getBytes("values");
        byte[] present = column.getBytes("present");
        if (present.length != 0 && present.length != count) {
            throw new DataException("column " + name + ": presence of " + present.length + " of " + count + " values");
        }
        List<?> found = switch (kind) {
            case INT64 -> numbers(name, values, count, ByteBuffer::getLong);
            case FLOAT64 -> numbers(name, values, count, ByteBuffer::getDouble);
            case TEXT -> texts(name, values, count);
            default -> throw new DataException("column " + name + " is of the unknown kind " + kind);
        };
        for (int i = 0; i < present.length; i++) {
            if (present[i] == 0) {
                found.set(i, null);
            }
        }
        return new Struct(COLUMN).put("name", name).put("kind", kind).put(kind, found);
    }

    private static <T> List<T> numbers(String name, byte[] values, int count, Function<ByteBuffer, T> next) {
        if (values.length != 8L * count) {
            throw new DataException("column " + name + " does not hold " + count + " values");
        }
        ByteBuffer rest = ByteBuffer.wrap(values).order(ByteOrder.LITTLE_ENDIAN);
        List<T> found = new ArrayList<>(count);
        while (rest.hasRemaining()) {
            found.add(next.apply(rest));
        }
        return found;
    }

    /** Text: the end of each value as uint32, then all of them as UTF-8. */
    private static List<String> texts(String name, byte[] values, int count) {
        if (values.length < 4L * count) {
            throw new DataException("column " + name + " does not hold " + count + " values");
        }
        ByteBuffer ends = ByteBuffer.wrap(values).order(ByteOrder.LITTLE_ENDIAN);
        ByteBuffer text = ByteBuffer.wrap(values, 4 * count, values.length - 4 * count).slice();
        List<String> found = new ArrayList<>(count);
        for (int i = 0; i < count; i++) {
            long end = Integer.toUnsignedLong(ends.getInt());
            if (end < text.position() || end > text.capacity()) {
                throw new DataException("column " + name + ": value " + i + " does not lie in its text");
            }
            found.add(decoded(name, text.limit((int) end)));
        }
        if (text.position() != text.capacity()) {
            throw new DataException("column " + name + ": text is left over");
        }
        return found;
    }

    private static String decoded(String name, ByteBuffer text) {
        try {
            return StandardCharsets.UTF_8.newDecoder().decode(text).toString();
        } catch (CharacterCodingException error) {
            throw new DataException("column " + name + " is not UTF-8", error);
        }
    }

    static List<Struct> pack(List<?> columns, Schema wire, int count) {
        return columns.stream().map(column -> pack((Struct) column, wire, count)).toList();
    }

    private static Struct pack(Struct column, Schema wire, int count) {
        String kind = column.getString("kind");
        if (!List.of(INT64, FLOAT64, TEXT).contains(kind) || column.get(kind) == null) {
            throw new DataException("column " + column.getString("name") + " has no values of kind " + kind);
        }
        List<?> values = column.getArray(kind);
        if (values.size() != count) {
            throw new DataException("column " + column.getString("name") + " does not hold " + count + " values");
        }
        byte[] packed = switch (kind) {
            case INT64 -> packed(values, rest -> value -> rest.putLong(value == null ? 0 : (Long) value));
            case FLOAT64 -> packed(values, rest -> value -> rest.putDouble(value == null ? 0 : (Double) value));
            default -> packedTexts(values);
        };
        return new Struct(wire).put("name", column.getString("name")).put("kind", kind).put("values", packed)
            .put("present", presence(values));
    }

    private static byte[] packed(List<?> values, Function<ByteBuffer, Consumer<Object>> put) {
        ByteBuffer packed = ByteBuffer.allocate(8 * values.size()).order(ByteOrder.LITTLE_ENDIAN);
        values.forEach(put.apply(packed));
        return packed.array();
    }

    private static byte[] packedTexts(List<?> values) {
        List<byte[]> encoded = values.stream()
            .map(value -> value == null ? NONE : ((String) value).getBytes(StandardCharsets.UTF_8)).toList();
        int nbytes = encoded.stream().mapToInt(text -> text.length).sum();
        ByteBuffer packed = ByteBuffer.allocate(4 * values.size() + nbytes).order(ByteOrder.LITTLE_ENDIAN);
        int end = 0;
        for (byte[] text : encoded) {
            end += text.length;
            packed.putInt(end);
        }
        encoded.forEach(packed::put);
        return packed.array();
    }

    /** One byte a value, 0 where there is none; nothing if all are there. */
    private static byte[] presence(List<?> values) {
        if (values.stream().allMatch(Objects::nonNull)) {
            return NONE;
        }
        byte[] present = new byte[values.size()];
        for (int i = 0; i < present.length; i++) {
            present[i] = (byte) (values.get(i) == null ? 0 : 1);
        }
        return present;
    }
}
