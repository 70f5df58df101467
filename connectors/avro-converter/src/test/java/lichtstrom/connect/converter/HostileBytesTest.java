package lichtstrom.connect.converter;

import static lichtstrom.connect.converter.RecordsTest.TOPIC;
import static lichtstrom.connect.converter.RecordsTest.converter;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.stream.Stream;
import org.apache.kafka.connect.data.SchemaAndValue;
import org.apache.kafka.connect.data.Struct;
import org.apache.kafka.connect.errors.DataException;
import org.apache.kafka.connect.storage.Converter;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Whatever the bytes are, there is a DataException with a text that says what to do, and nothing else. */
class HostileBytesTest {
    private static final int MARKER_NBYTES = 10;
    private static final int FLIPS = 3000;

    static Stream<Vectors> vectors() {
        return Vectors.all().stream();
    }

    private static String refused(Converter converter, byte[] value) {
        return assertThrows(DataException.class, () -> converter.toConnectData(TOPIC, value)).getMessage();
    }

    private static byte[] with(byte[] head, int length, String hex) {
        byte[] tail = HexFormat.of().parseHex(hex);
        byte[] found = Arrays.copyOf(head, length + tail.length);
        System.arraycopy(tail, 0, found, length, tail.length);
        return found;
    }

    @ParameterizedTest
    @MethodSource("vectors")
    void a_record_cut_anywhere_is_refused(Vectors vector) {
        Converter converter = converter();
        for (int length = 1; length < vector.bytes().length; length++) {
            String text = refused(converter, Arrays.copyOf(vector.bytes(), length));
            assertTrue(text.startsWith("topic " + TOPIC + ": "), text);
        }
    }

    @ParameterizedTest
    @MethodSource("vectors")
    void bytes_behind_a_record_are_refused(Vectors vector) {
        String text = refused(converter(), with(vector.bytes(), vector.bytes().length, "00"));
        assertTrue(text.contains("damaged org.lichtstrom." + vector.name() + " record"), text);
        assertTrue(text.endsWith("1 bytes are left over behind it"), text);
    }

    @ParameterizedTest
    @MethodSource("vectors")
    void changed_bytes_give_a_record_or_a_data_exception(Vectors vector) {
        Converter converter = converter();
        Random random = new Random(20261123);
        int refused = 0;
        for (int i = 0; i < FLIPS; i++) {
            byte[] bytes = vector.bytes().clone();
            for (int flips = random.nextInt(4); flips >= 0; flips--) {
                bytes[MARKER_NBYTES + random.nextInt(bytes.length - MARKER_NBYTES)] = (byte) random.nextInt();
            }
            try {
                converter.toConnectData(TOPIC, bytes);
            } catch (DataException error) {
                refused++;
            }
        }
        assertTrue(refused > 0 && refused < FLIPS, vector.name() + ": " + refused);
    }

    @Test
    void an_unknown_schema_is_named_with_what_to_do() {
        String text = refused(converter(), HexFormat.of().parseHex("c301" + "0011223344556677" + "00"));
        assertTrue(text.contains("0011223344556677") && text.contains("schemas.directory"), text);
    }

    @Test
    void what_is_no_single_object_is_told_apart() {
        assertTrue(refused(converter(), "{\"a\": 1}".getBytes()).contains("begins with c301, but 7b2261"));
        assertTrue(refused(converter(), new byte[] {0, 0, 0, 0, 1, 2}).contains("schema registry"));
        assertTrue(refused(converter(), HexFormat.of().parseHex("c30101")).contains("within the fingerprint"));
    }

    @Test
    void a_length_that_lies_takes_no_memory() {
        byte[] claim = Vectors.of("Claim").bytes();
        int nonce = MARKER_NBYTES + 8 + 2; // behind the stream's key, module and epoch
        // 2 GiB - 1, 2^62, -1 and 2^64 - 1 as zig-zag numbers, then one without an end
        for (String length : new String[] {"feffffff0f", "80808080808080808001", "01", "ffffffffffffffffff01"}) {
            String text = refused(converter(), with(claim, nonce, length));
            assertTrue(text.contains("states a length of"), text);
        }
        assertTrue(refused(converter(), with(claim, nonce, "ffffffffffffffffffff")).contains("more than 64 bits"));
    }

    @Test
    void a_count_that_lies_takes_no_memory() {
        byte[] segment = Vectors.of("Segment").bytes();
        int shape = MARKER_NBYTES + 8 + 4; // behind the stream's key, epoch, module, floor and ceil
        assertEquals("04040600", HexFormat.of().formatHex(segment, shape, shape + 4)); // 2 items: 2, 3; end
        for (String count : new String[] {"feffffff0f", "feffffffffffffffff01", "fdffffff0f00"}) {
            assertTrue(refused(converter(), with(segment, shape, count)).contains("items in"), count);
        }
        // the smallest long is its own negative
        assertTrue(refused(converter(), with(segment, shape, "ffffffffffffffffff0100")).contains("items in"));
    }

    /** A segment whose field is other bytes than lichtstrom writes. */
    private static byte[] segmentWith(String field, byte[] value) {
        Converter plain = converter("packed", "bytes");
        SchemaAndValue found = plain.toConnectData(TOPIC, Vectors.of("Segment").bytes());
        ((Struct) found.value()).put(field, value);
        return plain.fromConnectData(TOPIC, found.schema(), found.value());
    }

    @Test
    void packed_columns_that_do_not_fit_are_refused() {
        assertTrue(refused(converter(), segmentWith("numbers", new byte[23])).contains("not a multiple of 8"));
        assertTrue(refused(converter(), segmentWith("lengths", new byte[15])).contains("not a multiple of 4"));
        assertTrue(refused(converter(), segmentWith("lengths", new byte[16])).contains("has 4 of 3 values"));
        assertTrue(refused(converter(), segmentWith("digests", new byte[0])).contains("has 0 of 3 values"));
        converter("packed", "bytes").toConnectData(TOPIC, segmentWith("digests", new byte[0]));
    }

    /** A segment of three frames with one column. */
    private static byte[] segmentWith(String kind, String values, String present) {
        Converter plain = converter("packed", "bytes");
        SchemaAndValue found = plain.toConnectData(TOPIC, Vectors.of("Segment").bytes());
        Struct record = (Struct) found.value();
        Struct column = new Struct(found.schema().field("columns").schema().valueSchema()).put("name", "c")
            .put("kind", kind).put("values", HexFormat.of().parseHex(values))
            .put("present", HexFormat.of().parseHex(present));
        record.put("columns", List.of(column));
        return plain.fromConnectData(TOPIC, found.schema(), record);
    }

    @Test
    void columns_of_attributes_that_do_not_fit_are_refused() {
        String ends = "010000000200000003000000";
        converter().toConnectData(TOPIC, segmentWith("text", ends + "616263", "010001"));
        Map<byte[], String> reasons = Map.of(
            segmentWith("text", ends + "616263", "0100"), "presence of 2 of 3 values",
            segmentWith("text", ends + "61626364", ""), "text is left over",
            segmentWith("text", ends + "6162", ""), "value 2 does not lie in its text",
            segmentWith("text", "020000000100000003000000616263", ""), "value 1 does not lie in its text",
            segmentWith("text", "0100000002000000", ""), "does not hold 3 values",
            segmentWith("text", ends + "61ff63", ""), "not UTF-8",
            segmentWith("int64", "00".repeat(23), ""), "does not hold 3 values",
            segmentWith("float64", "00".repeat(32), ""), "does not hold 3 values",
            segmentWith("int32", "00".repeat(12), ""), "unknown kind int32");
        reasons.forEach((bytes, reason) -> {
            String text = refused(converter(), bytes);
            assertTrue(text.contains(reason), text);
        });
    }
}
