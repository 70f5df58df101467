package lichtstrom.connect.converter;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.ServiceLoader;
import java.util.stream.Stream;
import org.apache.kafka.connect.data.Field;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.data.SchemaAndValue;
import org.apache.kafka.connect.data.SchemaBuilder;
import org.apache.kafka.connect.data.Struct;
import org.apache.kafka.connect.errors.DataException;
import org.apache.kafka.connect.json.JsonConverter;
import org.apache.kafka.connect.storage.Converter;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Records that lichtstrom wrote, to Connect and back. */
class RecordsTest {
    static final String TOPIC = "lichtstrom.c1.lambda";

    static Converter converter(String... options) {
        Converter made = new AvroSingleObjectConverter();
        Map<String, String> all = new HashMap<>();
        for (int i = 0; i < options.length; i += 2) {
            all.put(options[i], options[i + 1]);
        }
        made.configure(all, false);
        return made;
    }

    static Stream<Vectors> vectors() {
        return Vectors.all().stream();
    }

    @ParameterizedTest
    @MethodSource("vectors")
    void a_record_is_shown_with_the_values_that_python_reads(Vectors vector) throws IOException {
        SchemaAndValue found = converter().toConnectData(TOPIC, vector.bytes());
        try (JsonConverter json = new JsonConverter()) {
            json.configure(Map.of("schemas.enable", "false", "converter.type", "value"));
            byte[] text = json.fromConnectData(TOPIC, found.schema(), found.value());
            assertEquals(vector.shown(), new ObjectMapper().readTree(text));
        }
    }

    @ParameterizedTest
    @MethodSource("vectors")
    void a_record_that_was_read_is_written_with_the_same_bytes(Vectors vector) {
        for (String packed : List.of("arrays", "bytes")) {
            for (String key : List.of("hex", "bytes")) {
                Converter converter = converter("packed", packed, "stream.key", key);
                SchemaAndValue found = converter.toConnectData(TOPIC, vector.bytes());
                assertArrayEquals(vector.bytes(), converter.fromConnectData(TOPIC, found.schema(), found.value()));
            }
        }
    }

    @Test
    void packed_bytes_and_the_key_can_be_had_as_they_are() {
        Converter converter = converter("packed", "bytes", "stream.key", "bytes");
        Struct found = (Struct) converter.toConnectData(TOPIC, Vectors.of("Segment").bytes()).value();
        assertEquals(3 * 8, found.getBytes("numbers").length);
        assertEquals(8, found.getBytes("stream_key").length);
        assertEquals(Schema.Type.BYTES, found.schema().field("columns").schema().valueSchema().field("values").schema()
            .type());
    }

    @Test
    void other_connectors_may_hand_bytes_as_buffers() {
        byte[] bytes = Vectors.of("Seal").bytes();
        SchemaAndValue found = converter().toConnectData(TOPIC, bytes);
        Struct record = (Struct) found.value();
        record.put("start", ByteBuffer.wrap(record.getBytes("start")));
        assertArrayEquals(bytes, converter().fromConnectData(TOPIC, found.schema(), record));
    }

    @Test
    void tombstones_and_values_without_bytes_are_null() {
        assertEquals(SchemaAndValue.NULL, converter().toConnectData(TOPIC, null));
        assertEquals(SchemaAndValue.NULL, converter().toConnectData(TOPIC, new byte[0]));
        assertNull(converter().fromConnectData(TOPIC, null, null));
    }

    @Test
    void kinds_that_are_not_wanted_are_null() {
        Converter converter = converter("records", "Segment, org.lichtstrom.Start");
        for (Vectors vector : Vectors.all()) {
            boolean wanted = List.of("Segment", "Start").contains(vector.name());
            assertEquals(wanted, converter.toConnectData(TOPIC, vector.bytes()).value() != null, vector.name());
        }
    }

    @Test
    void data_of_other_schemas_is_refused() {
        Schema other = SchemaBuilder.struct().name("other").field("a", Schema.INT32_SCHEMA).build();
        Struct value = new Struct(other).put("a", 1);
        assertThrows(DataException.class, () -> converter().fromConnectData(TOPIC, other, value));
        assertThrows(DataException.class, () -> converter().fromConnectData(TOPIC, null, Map.of("a", 1)));
        assertThrows(DataException.class, () -> converter().fromConnectData(TOPIC, Schema.STRING_SCHEMA, "a"));
    }

    @Test
    void a_record_that_a_transform_took_fields_from_is_refused() {
        SchemaAndValue found = converter().toConnectData(TOPIC, Vectors.of("Mark").bytes());
        SchemaBuilder less = SchemaBuilder.struct().name(found.schema().name())
            .parameters(found.schema().parameters());
        for (Field field : found.schema().fields().subList(1, found.schema().fields().size())) {
            less.field(field.name(), field.schema());
        }
        Schema schema = less.build();
        Struct value = new Struct(schema);
        schema.fields().forEach(field -> value.put(field.name(), ((Struct) found.value()).get(field.name())));
        DataException error = assertThrows(DataException.class,
            () -> converter().fromConnectData(TOPIC, schema, value));
        assertTrue(error.getMessage().contains("no longer those of org.lichtstrom.Mark"), error.getMessage());
    }

    @Test
    void columns_that_a_transform_made_uneven_are_refused() {
        SchemaAndValue found = converter().toConnectData(TOPIC, Vectors.of("Segment").bytes());
        Struct record = (Struct) found.value();
        for (String name : List.of("digests", "numbers")) {
            List<Object> values = new ArrayList<>(record.getArray(name));
            record.put(name, values.subList(1, values.size()));
            assertThrows(DataException.class, () -> converter().fromConnectData(TOPIC, found.schema(), record));
            record.put(name, values);
        }
        record.put("lengths", List.of(12L, 12L, 1L << 32));
        assertThrows(DataException.class, () -> converter().fromConnectData(TOPIC, found.schema(), record));
        record.put("lengths", List.of(12L, 12L, 12L));
        converter().fromConnectData(TOPIC, found.schema(), record);
        record.put("stream_key", "no hex");
        assertThrows(DataException.class, () -> converter().fromConnectData(TOPIC, found.schema(), record));
        record.put("stream_key", "0123");
        assertThrows(DataException.class, () -> converter().fromConnectData(TOPIC, found.schema(), record));
    }

    @Test
    void connect_finds_the_converter_by_its_manifest() {
        assertTrue(ServiceLoader.load(Converter.class).stream()
            .anyMatch(found -> found.type() == AvroSingleObjectConverter.class));
    }
}
