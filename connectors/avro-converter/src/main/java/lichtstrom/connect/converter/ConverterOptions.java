package lichtstrom.connect.converter;

import java.util.Map;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.common.config.ConfigDef.Importance;
import org.apache.kafka.common.config.ConfigDef.Type;
import org.apache.kafka.common.config.ConfigDef.ValidString;
import org.apache.kafka.connect.storage.ConverterConfig;

/** What the converter can be told; in a worker's or connector's file each name begins with {@code value.converter.}. */
final class ConverterOptions extends ConverterConfig {
    static final String PACKED = "packed";
    static final String STREAM_KEY = "stream.key";
    static final String SCHEMAS_DIRECTORY = "schemas.directory";

    ConverterOptions(Map<String, ?> values) {
        super(definition(), values);
    }

    static ConfigDef definition() {
        return own(ConverterConfig.newConfigDef());
    }

    /** The options without those that Connect gives to every converter. */
    static ConfigDef own(ConfigDef definition) {
        return definition
            .define(PACKED, Type.STRING, "arrays", ValidString.in("arrays", "bytes"), Importance.MEDIUM,
                "Packed columns of segments and marks (frame numbers, timestamps, offsets, attributes, ...): "
                    + "as arrays of numbers and text, or as the bytes of the record")
            .define(STREAM_KEY, Type.STRING, "hex", ValidString.in("hex", "bytes"), Importance.LOW,
                "The stream's id: as 16 hex digits, or as its 8 bytes")
            .define(SCHEMAS_DIRECTORY, Type.STRING, "", Importance.LOW,
                "A folder on the worker whose .avsc files are known too, for records of later versions "
                    + "and of other programs; empty: none. Read when the connector starts");
    }

    boolean arrays() {
        return getString(PACKED).equals("arrays");
    }

    boolean hexKey() {
        return getString(STREAM_KEY).equals("hex");
    }

    String schemasDirectory() {
        return getString(SCHEMAS_DIRECTORY);
    }
}
