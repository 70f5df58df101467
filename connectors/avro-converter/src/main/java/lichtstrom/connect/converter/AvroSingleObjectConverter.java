package lichtstrom.connect.converter;

import java.nio.ByteBuffer;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.connect.components.Versioned;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.data.SchemaAndValue;
import org.apache.kafka.connect.data.Struct;
import org.apache.kafka.connect.errors.DataException;
import org.apache.kafka.connect.errors.RetriableException;
import org.apache.kafka.connect.storage.Converter;

/**
 * Converts between Avro single-object encoding and Connect's data, without a schema registry.
 *
 * <p>A record is the bytes {@code C3 01}, the CRC-64-AVRO fingerprint of its schema (8 bytes, little-endian) and the
 * Avro body. What cannot be read is a DataException, whatever the bytes are, so that Connect's {@code errors.tolerance}
 * and dead-letter queue apply. Nothing changes after {@link #configure}: any number of threads may convert.
 */
public final class AvroSingleObjectConverter implements Converter, Versioned {
    private static final int MARKER_NBYTES = 10;
    private static final HexFormat HEX = HexFormat.of();

    private KnownSchemas known;
    private Set<String> wanted;

    @Override
    public String version() {
        return Objects.requireNonNullElse(getClass().getPackage().getImplementationVersion(), "unknown");
    }

    @Override
    public ConfigDef config() {
        return ConverterOptions.definition();
    }

    /**
     * Read the options and the schemas.
     *
     * @throws org.apache.kafka.common.config.ConfigException for an option or a folder of schemas that is of no use
     */
    @Override
    public void configure(Map<String, ?> options, boolean isKey) {
        Map<String, Object> all = new HashMap<>(options);
        all.putIfAbsent(ConverterOptions.TYPE_CONFIG, isKey ? "key" : "value");
        ConverterOptions made = new ConverterOptions(all);
        known = new KnownSchemas(made);
        wanted = made.records();
    }

    /**
     * Return the record that {@code value} holds; null for null (a tombstone), for a value without bytes, and for a
     * record of a kind that is not wanted.
     *
     * <p>Blocks only where an unknown schema is looked for on the topic of schemas.
     *
     * @throws RetriableException if that topic cannot be read
     * @throws DataException if it is damaged, of an unknown schema or no Avro single object at all
     */
    @Override
    public SchemaAndValue toConnectData(String topic, byte[] value) {
        if (value == null || value.length == 0) {
            return SchemaAndValue.NULL;
        }
        KnownSchema schema = schemaOf(topic, value);
        if (!wanted.isEmpty() && !wanted.contains(schema.name()) && !wanted.contains(schema.shortName())) {
            return SchemaAndValue.NULL;
        }
        try {
            return schema.read(ByteBuffer.wrap(value, MARKER_NBYTES, value.length - MARKER_NBYTES));
        } catch (RuntimeException | StackOverflowError error) {
            throw new DataException("topic " + topic + ": damaged " + schema.name() + " record (schema "
                + schema.fingerprint() + ", " + value.length + " bytes): " + error.getMessage(), error);
        }
    }

    private KnownSchema schemaOf(String topic, byte[] value) {
        if (value.length < 2 || value[0] != (byte) 0xc3 || value[1] != 0x01) {
            throw new DataException("topic " + topic + ": not Avro single-object encoding, which begins with c301, but "
                + begin(value) + hint(value));
        }
        if (value.length < MARKER_NBYTES) {
            throw new DataException("topic " + topic + ": cut short within the fingerprint of its schema: "
                + begin(value));
        }
        String fingerprint = HEX.formatHex(value, 2, MARKER_NBYTES);
        KnownSchema schema = known.find(fingerprint);
        if (schema == null) {
            throw new DataException("topic " + topic + ": no schema has the fingerprint " + fingerprint
                + ": put its .avsc into the folder that " + ConverterOptions.SCHEMAS_DIRECTORY
                + " names and restart the connector, or have " + ConverterOptions.SCHEMAS_TOPIC
                + " name the topic <prefix>.schemas, where lichtstrom keeps its schemas");
        }
        return schema;
    }

    private static String begin(byte[] value) {
        return HEX.formatHex(value, 0, Math.min(value.length, MARKER_NBYTES));
    }

    private static String hint(byte[] value) {
        return value[0] == 0 ? " (00 begins the framing of a schema registry: use the registry's converter)"
            : " (keys are no Avro: use ByteArrayConverter for them)";
    }

    /**
     * Return the bytes of a record that {@link #toConnectData} gave, with these options, to whatever connector.
     *
     * @throws DataException for data of any other schema: nobody could read it without being given the schema
     */
    @Override
    public byte[] fromConnectData(String topic, Schema schema, Object value) {
        if (value == null) {
            return null;
        }
        String fingerprint = schema == null || schema.parameters() == null ? null
            : schema.parameters().get(RecordView.FINGERPRINT);
        KnownSchema found = fingerprint == null ? null : known.find(fingerprint);
        if (found == null || !(value instanceof Struct record)) {
            throw new DataException("topic " + topic + ": this converter writes only records that it has read itself,"
                + " not " + (schema == null ? "data without a schema" : schema + " without its Avro schema"));
        }
        try {
            return found.write(record);
        } catch (RuntimeException error) {
            throw new DataException("topic " + topic + ": no " + found.name() + " record: " + error.getMessage(),
                error);
        }
    }
}
