package lichtstrom.connect.converter;

import static lichtstrom.connect.converter.RecordsTest.TOPIC;
import static lichtstrom.connect.converter.RecordsTest.converter;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTimeout;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.message.BinaryMessageEncoder;
import org.apache.kafka.common.config.ConfigException;
import org.apache.kafka.connect.data.SchemaAndValue;
import org.apache.kafka.connect.data.Struct;
import org.apache.kafka.connect.errors.DataException;
import org.apache.kafka.connect.errors.RetriableException;
import org.apache.kafka.connect.storage.Converter;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Schemas of other programs and later versions, from a folder and a topic. */
class MoreSchemasTest {
    private static final String ALL_TYPES = """
        {"type": "record", "name": "x.All", "doc": "of all types", "fields": [
          {"name": "i", "type": "int"}, {"name": "l", "type": "long"}, {"name": "f", "type": "float"},
          {"name": "d", "type": "double"}, {"name": "b", "type": "boolean"}, {"name": "s", "type": "string"},
          {"name": "y", "type": "bytes"}, {"name": "x", "type": {"type": "fixed", "name": "F", "size": 2}},
          {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}, "doc": "a or b"},
          {"name": "n", "type": ["string", "null"]}, {"name": "only", "type": ["int"]},
          {"name": "numbers", "type": "bytes"},
          {"name": "m", "type": {"type": "map", "values": {"type": "array", "items": ["null", "double"]}}},
          {"name": "r", "type": {"type": "record", "name": "R", "doc": "inner", "fields": []}, "doc": "of all"},
          {"name": "again", "type": ["null", "R"], "default": null}]}
        """;

    @TempDir
    private Path folder;

    private Converter knowing(String avsc) throws IOException {
        Files.writeString(folder.resolve("a.avsc"), avsc);
        Files.writeString(folder.resolve("README"), "no schema");
        return converter("schemas.directory", folder.toString());
    }

    /** Avro's own encoder is the other side. */
    private static byte[] encoded(GenericData.Record record) throws IOException {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        new BinaryMessageEncoder<>(GenericData.get(), record.getSchema()).encode(record, out);
        return out.toByteArray();
    }

    private static GenericData.Record example(Schema schema) {
        GenericData.Record record = new GenericData.Record(schema);
        Object[] values = {Integer.MIN_VALUE, Long.MAX_VALUE, 1.5f, -0.0, true, "é", ByteBuffer.wrap(new byte[300]),
            new GenericData.Fixed(schema.getField("x").schema(), new byte[] {1, 2}),
            new GenericData.EnumSymbol(schema.getField("e").schema(), "B"), null, 7,
            ByteBuffer.wrap(new byte[] {1}), Map.of("k", Arrays.asList(null, 2.5)),
            new GenericData.Record(schema.getField("r").schema()), null};
        for (int i = 0; i < values.length; i++) {
            record.put(i, values[i]);
        }
        return record;
    }

    @Test
    void records_of_all_types_are_read_as_avro_writes_them_and_written_back() throws IOException {
        byte[] bytes = encoded(example(new Schema.Parser().parse(ALL_TYPES)));
        Converter converter = knowing(ALL_TYPES);
        SchemaAndValue found = converter.toConnectData(TOPIC, bytes);
        Struct record = (Struct) found.value();
        assertEquals(Integer.MIN_VALUE, record.getInt32("i"));
        assertEquals(Long.MAX_VALUE, record.getInt64("l"));
        assertEquals(1.5f, record.getFloat32("f"));
        assertEquals(-0.0, record.getFloat64("d"));
        assertTrue(record.getBoolean("b"));
        assertEquals("é", record.getString("s"));
        assertEquals("B", record.getString("e"));
        assertNull(record.get("n"));
        assertEquals(7, record.getInt32("only"));
        // A field of another program that is only called like one of ours stays as it is.
        assertArrayEquals(new byte[] {1}, record.getBytes("numbers"));
        assertEquals(Map.of("k", Arrays.asList(null, 2.5)), record.getMap("m"));
        assertEquals("of all types", found.schema().doc());
        assertEquals("of all", found.schema().field("r").schema().doc());
        assertArrayEquals(bytes, converter.fromConnectData(TOPIC, found.schema(), record));
    }

    @Test
    void a_boolean_an_enum_and_a_union_out_of_range_are_refused() throws IOException {
        String avsc = """
            {"type": "record", "name": "x.Three", "fields": [{"name": "b", "type": "boolean"},
              {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A"]}},
              {"name": "n", "type": ["null", "int"]}]}
            """;
        Converter converter = knowing(avsc);
        String marker = HexFormat.of().formatHex(encoded(three(new Schema.Parser().parse(avsc))), 0, 10);
        converter.toConnectData(TOPIC, HexFormat.of().parseHex(marker + "010000"));
        Map<String, String> reasons = Map.of("020000", "neither 0 nor 1", "000200", "enum symbol 1 of 1",
            "000100", "enum symbol -1 of 1", "000004", "union branch 2 of 2", "000001", "union branch -1 of 2",
            "000002808080808010", "more than 32 bits");
        reasons.forEach((body, reason) -> {
            String text = assertThrows(DataException.class,
                () -> converter.toConnectData(TOPIC, HexFormat.of().parseHex(marker + body))).getMessage();
            assertTrue(text.contains(reason), text);
        });
    }

    private static GenericData.Record three(Schema schema) {
        GenericData.Record record = new GenericData.Record(schema);
        record.put("b", true);
        record.put("e", new GenericData.EnumSymbol(schema.getField("e").schema(), "A"));
        return record;
    }

    @Test
    void arrays_in_blocks_with_their_size_are_read() throws IOException {
        String avsc = """
            {"type": "record", "name": "x.Array", "fields": [{"name": "a", "type": {"type": "array", "items": "int"}}]}
            """;
        Converter converter = knowing(avsc);
        GenericData.Record empty = new GenericData.Record(new Schema.Parser().parse(avsc));
        empty.put("a", List.of());
        String marker = HexFormat.of().formatHex(encoded(empty), 0, 10);
        // a block of -2 items in 2 bytes, then one of 1 item, then the end
        byte[] bytes = HexFormat.of().parseHex(marker + "03" + "04" + "0204" + "02" + "06" + "00");
        assertEquals(List.of(1, 2, 3), ((Struct) converter.toConnectData(TOPIC, bytes).value()).getArray("a"));
        byte[] lying = HexFormat.of().parseHex(marker + "03" + "80808008" + "0204" + "00");
        assertThrows(DataException.class, () -> converter.toConnectData(TOPIC, lying));
    }

    @Test
    void items_without_bytes_cannot_multiply() throws IOException {
        String avsc = """
            {"type": "record", "name": "x.Bomb", "fields": [{"name": "a", "type": {"type": "array", "items":
              {"type": "array", "items": {"type": "record", "name": "Nothing", "fields": []}}}}]}
            """;
        Converter converter = knowing(avsc);
        GenericData.Record empty = new GenericData.Record(new Schema.Parser().parse(avsc));
        empty.put("a", List.of());
        ByteArrayOutputStream bomb = new ByteArrayOutputStream();
        bomb.write(encoded(empty), 0, 10);
        // 300,000 arrays of 900,000 items each in 1.5 MB
        bomb.writeBytes(HexFormat.of().parseHex("c0cf24"));
        for (int i = 0; i < 300_000; i++) {
            bomb.writeBytes(HexFormat.of().parseHex("c0ee6d00"));
        }
        bomb.write(0);
        String text = assertThrows(DataException.class, () -> converter.toConnectData(TOPIC, bomb.toByteArray()))
            .getMessage();
        assertTrue(text.contains("items in"), text);
    }

    @Test
    void a_schema_that_connect_cannot_hold_stops_the_start_and_says_why() {
        Map<String, String> reasons = Map.of(
            "{\"type\": \"long\"}", "not a record",
            "no json", "not an Avro schema",
            "{\"type\": \"record\", \"name\": \"L\", \"fields\": [{\"name\": \"n\", \"type\": [\"null\", \"L\"]}]}",
            "contains itself",
            "{\"type\": \"record\", \"name\": \"U\", \"fields\": [{\"name\": \"n\", \"type\": [\"int\", \"long\"]}]}",
            "no type for the union",
            "{\"type\": \"record\", \"name\": \"N\", \"fields\": [{\"name\": \"n\", \"type\": \"null\"}]}",
            "null alone");
        reasons.forEach((avsc, reason) -> {
            String text = assertThrows(ConfigException.class, () -> knowing(avsc)).getMessage();
            assertTrue(text.contains("schemas.directory") && text.contains(reason), text);
        });
    }

    @Test
    void a_folder_that_is_not_there_and_options_that_do_not_exist_stop_the_start() {
        assertThrows(ConfigException.class, () -> converter("schemas.directory", folder + "/none"));
        assertThrows(ConfigException.class, () -> converter("packed", "array"));
        assertThrows(ConfigException.class, () -> converter("stream.key", "text"));
        assertThrows(ConfigException.class, () -> converter("schemas.topic", "lichtstrom.schemas"));
    }

    @Test
    void a_broker_that_does_not_answer_is_an_error_to_try_again_after_a_bounded_time() {
        // Nothing listens on port 1.
        Converter converter = converter("schemas.topic", "lichtstrom.schemas", "schemas.timeout.ms", "300",
            "schemas.consumer.bootstrap.servers", "127.0.0.1:1");
        byte[] unknown = HexFormat.of().parseHex("c301" + "0011223344556677" + "00");
        String text = assertTimeout(Duration.ofSeconds(20),
            () -> assertThrows(RetriableException.class, () -> converter.toConnectData(TOPIC, unknown))).getMessage();
        assertTrue(text.contains("lichtstrom.schemas"), text);
        // What is known needs no broker.
        converter.toConnectData(TOPIC, Vectors.of("Mark").bytes());
    }
}
