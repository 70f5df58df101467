package lichtstrom.connect.converter;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.HexFormat;
import org.apache.avro.AvroRuntimeException;
import org.apache.avro.Schema;
import org.apache.avro.SchemaNormalization;
import org.apache.kafka.connect.data.SchemaAndValue;
import org.apache.kafka.connect.data.Struct;
import org.apache.kafka.connect.errors.DataException;

/** A schema ready to use: records written with it begin with {@code marker}. */
final class KnownSchema {
    private final Schema avro;
    private final org.apache.kafka.connect.data.Schema wire;
    private final RecordView view;
    private final byte[] marker;
    private final String fingerprint;

    /** Parse the text of an {@code .avsc} file; throws DataException if Connect cannot hold its records. */
    KnownSchema(String text, ConverterOptions options) {
        try {
            avro = new Schema.Parser().parse(text);
        } catch (AvroRuntimeException | StackOverflowError error) {
            throw new DataException("it is not an Avro schema: " + error.getMessage(), error);
        }
        // Avro 1.12 specification, "Single object encoding": C3 01, then the fingerprint, little-endian.
        marker = ByteBuffer.allocate(10).order(ByteOrder.LITTLE_ENDIAN).put((byte) 0xc3).put((byte) 0x01)
            .putLong(SchemaNormalization.parsingFingerprint64(avro)).array();
        fingerprint = HexFormat.of().formatHex(marker, 2, marker.length);
        wire = ConnectSchemas.of(avro);
        view = new RecordView(wire, fingerprint, options);
    }

    String name() {
        return avro.getFullName();
    }

    /** Its name as options have it: ours without their namespace. */
    String shortName() {
        return name().startsWith(RecordView.NAMESPACE) ? avro.getName() : name();
    }

    /** The eight bytes behind C3 01, in hex. */
    String fingerprint() {
        return fingerprint;
    }

    /** Return the record whose Avro body is {@code body}. */
    SchemaAndValue read(ByteBuffer body) {
        return new SchemaAndValue(view.schema(), view.show(AvroReader.read(avro, wire, body)));
    }

    /** Return the bytes of a record that {@code read} gave, or of one like it. */
    byte[] write(Struct shown) {
        if (!shown.schema().equals(view.schema())) {
            throw new DataException("its fields are no longer those of " + name());
        }
        shown.validate();
        return AvroWriter.write(marker, avro, view.record(shown));
    }
}
