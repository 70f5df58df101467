package lichtstrom.connect.converter;

import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.CharBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import org.apache.avro.Schema;
import org.apache.kafka.connect.data.Struct;
import org.apache.kafka.connect.errors.DataException;

/** Writes Connect's values as an Avro body: arrays and maps as one block, as lichtstrom does. */
final class AvroWriter {
    private final ByteArrayOutputStream out = new ByteArrayOutputStream();

    private AvroWriter() {
    }

    /** Return {@code record}, whose Connect schema was made from {@code avro}, with {@code marker} in front. */
    static byte[] write(byte[] marker, Schema avro, Struct record) {
        AvroWriter writer = new AvroWriter();
        writer.out.writeBytes(marker);
        writer.value(avro, record);
        return writer.out.toByteArray();
    }

    private void value(Schema avro, Object value) {
        switch (avro.getType()) {
            case RECORD -> avro.getFields().forEach(field -> value(field.schema(), ((Struct) value).get(field.name())));
            case ARRAY -> array(avro, (List<?>) value);
            case MAP -> map(avro, (Map<?, ?>) value);
            case UNION -> union(avro, value);
            case ENUM -> symbol(avro, (String) value);
            case STRING -> text((String) value);
            case BYTES -> bytes(value);
            case FIXED -> fixed(avro, value);
            case INT -> number((Integer) value);
            case LONG -> number((Long) value);
            case FLOAT -> out.writeBytes(little(4).putFloat((Float) value).array());
            case DOUBLE -> out.writeBytes(little(8).putDouble((Double) value).array());
            case BOOLEAN -> out.write((Boolean) value ? 1 : 0);
            case NULL -> { }
        }
    }

    private void array(Schema avro, List<?> items) {
        if (!items.isEmpty()) {
            number(items.size());
            items.forEach(item -> value(avro.getElementType(), item));
        }
        number(0);
    }

    private void map(Schema avro, Map<?, ?> entries) {
        if (!entries.isEmpty()) {
            number(entries.size());
            entries.forEach((name, value) -> {
                text((String) name);
                value(avro.getValueType(), value);
            });
        }
        number(0);
    }

    private void union(Schema avro, Object value) {
        List<Schema> branches = avro.getTypes();
        for (int i = 0; i < branches.size(); i++) {
            // Null and one other at most: see ConnectSchemas.
            if ((branches.get(i).getType() == Schema.Type.NULL) == (value == null)) {
                number(i);
                value(branches.get(i), value);
                return;
            }
        }
        throw new DataException("null where " + avro + " allows none");
    }

    private void symbol(Schema avro, String value) {
        if (!avro.hasEnumSymbol(value)) {
            throw new DataException(value + " is no symbol of " + avro.getFullName());
        }
        number(avro.getEnumOrdinal(value));
    }

    private void text(String value) {
        try {
            bytes(StandardCharsets.UTF_8.newEncoder().encode(CharBuffer.wrap(value)));
        } catch (CharacterCodingException error) {
            throw new DataException("a text that is not Unicode", error);
        }
    }

    private void bytes(Object value) {
        byte[] content = content(value);
        number(content.length);
        out.writeBytes(content);
    }

    private void fixed(Schema avro, Object value) {
        byte[] content = content(value);
        if (content.length != avro.getFixedSize()) {
            throw new DataException(content.length + " bytes in place of the " + avro.getFixedSize() + " of "
                + avro.getFullName());
        }
        out.writeBytes(content);
    }

    private static byte[] content(Object value) {
        if (value instanceof byte[] content) {
            return content;
        }
        ByteBuffer view = ((ByteBuffer) value).duplicate();
        byte[] content = new byte[view.remaining()];
        view.get(content);
        return content;
    }

    private void number(long value) {
        long rest = (value << 1) ^ (value >> 63);
        while ((rest & ~0x7fL) != 0) {
            out.write((int) (rest & 0x7f | 0x80));
            rest >>>= 7;
        }
        out.write((int) rest);
    }

    private static ByteBuffer little(int size) {
        return ByteBuffer.allocate(size).order(ByteOrder.LITTLE_ENDIAN);
    }
}
