package lichtstrom.connect.converter;

import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import org.apache.kafka.connect.data.Field;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.data.SchemaBuilder;
import org.apache.kafka.connect.data.Struct;
import org.apache.kafka.connect.errors.DataException;

/**
 * How a record is shown to connectors, and the way back.
 *
 * <p>lichtstrom's records hold their per-frame values as packed bytes, which a connector cannot look into: by the
 * options they become arrays, and the stream's id text. Records of others are shown as they are.
 */
final class RecordView {
    /** Where a view says of which Avro schema it is; it is what makes the way back possible. */
    static final String FINGERPRINT = "avro.fingerprint";

    static final String NAMESPACE = "org.lichtstrom.";
    private static final String NUMBERS = "numbers";

    /** Packed fields and the number in each, as in docs/wire.md. */
    private static final Map<String, Packed> PACKED = Map.of(
        NUMBERS, Packed.INT64,
        "timestamps_ns", Packed.INT64,
        "offsets", Packed.INT64,
        "lengths", Packed.UINT32,
        "checksums", Packed.UINT32,
        "digests", Packed.UINT32,
        "skipped", Packed.INT64,
        "rejected", Packed.INT64);
    private static final List<String> PER_FRAME =
        List.of(NUMBERS, "timestamps_ns", "offsets", "lengths", "checksums", "digests");

    private final Schema wire;
    private final Schema shown;

    RecordView(Schema wire, String fingerprint, ConverterOptions options) {
        this.wire = wire;
        SchemaBuilder builder = SchemaBuilder.struct().name(wire.name()).doc(wire.doc())
            .parameter(FINGERPRINT, fingerprint);
        for (Field field : wire.fields()) {
            builder.field(field.name(), shown(field, options));
        }
        this.shown = builder.build();
    }

    Schema schema() {
        return shown;
    }

    private Schema shown(Field field, ConverterOptions options) {
        Schema schema = field.schema();
        boolean bytes = schema.type() == Schema.Type.BYTES;
        if (!wire.name().startsWith(NAMESPACE) || schema.isOptional()) {
            return schema;
        }
        if (bytes && field.name().equals("stream_key") && options.hexKey()) {
            return SchemaBuilder.string().doc(schema.doc()).build();
        }
        if (bytes && PACKED.containsKey(field.name()) && options.arrays()) {
            return SchemaBuilder.array(Schema.INT64_SCHEMA).doc(schema.doc()).build();
        }
        return Columns.isColumns(field) && options.arrays() ? Columns.SCHEMA : schema;
    }

    /** Return what connectors see of a record that was read; throws DataException if its columns do not fit. */
    Struct show(Struct record) {
        Struct found = new Struct(shown);
        for (Field field : shown.fields()) {
            Object value = record.get(field.name());
            found.put(field, isShownAsItIs(field) ? value : show(field, value, record));
        }
        checkCounts(found);
        return found;
    }

    private Object show(Field field, Object value, Struct record) {
        if (field.schema().type() == Schema.Type.STRING) {
            return HexFormat.of().formatHex((byte[]) value);
        }
        if (value instanceof List<?> columns) {
            return Columns.unpack(columns, record.getBytes(NUMBERS).length / Long.BYTES);
        }
        return PACKED.get(field.name()).unpack(field.name(), (byte[]) value);
    }

    private void checkCounts(Struct view) {
        Field numbers = shown.field(NUMBERS);
        if (numbers == null || isShownAsItIs(numbers)) {
            return;
        }
        int count = view.getArray(NUMBERS).size();
        for (String name : PER_FRAME) {
            if (shown.field(name) != null && view.getArray(name).size() != count) {
                throw new DataException(name + " has " + view.getArray(name).size() + " of " + count + " values");
            }
        }
    }

    /** Return the record of which {@code view} is the view; throws DataException if it cannot be one. */
    Struct record(Struct view) {
        checkCounts(view);
        Struct found = new Struct(wire);
        for (Field field : wire.fields()) {
            Object value = view.get(field.name());
            found.put(field, isShownAsItIs(field) ? value : hidden(field, value, view));
        }
        return found;
    }

    private Object hidden(Field field, Object value, Struct view) {
        if (value instanceof String text) {
            try {
                return HexFormat.of().parseHex(text);
            } catch (IllegalArgumentException error) {
                throw new DataException(field.name() + " is not hex: " + text, error);
            }
        }
        if (field.schema().type() == Schema.Type.ARRAY) {
            return Columns.pack((List<?>) value, field.schema().valueSchema(), view.getArray(NUMBERS).size());
        }
        List<Long> numbers = new ArrayList<>();
        ((List<?>) value).forEach(number -> numbers.add((Long) number));
        return PACKED.get(field.name()).pack(field.name(), numbers);
    }

    private boolean isShownAsItIs(Field field) {
        return wire.field(field.name()).schema().equals(shown.field(field.name()).schema());
    }
}
