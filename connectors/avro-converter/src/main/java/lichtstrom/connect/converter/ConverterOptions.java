package lichtstrom.connect.converter;

import java.time.Duration;
import java.util.Map;
import java.util.Set;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.common.config.ConfigDef.Importance;
import org.apache.kafka.common.config.ConfigDef.Range;
import org.apache.kafka.common.config.ConfigDef.Type;
import org.apache.kafka.common.config.ConfigDef.ValidString;
import org.apache.kafka.common.config.ConfigException;
import org.apache.kafka.connect.storage.ConverterConfig;

/** What the converter can be told; in a worker's or connector's file each name begins with {@code value.converter.}. */
final class ConverterOptions extends ConverterConfig {
    static final String RECORDS = "records";
    static final String PACKED = "packed";
    static final String STREAM_KEY = "stream.key";
    static final String SCHEMAS_DIRECTORY = "schemas.directory";
    static final String SCHEMAS_TOPIC = "schemas.topic";
    static final String SCHEMAS_TIMEOUT = "schemas.timeout.ms";
    /** Options with this prefix go to the consumer that reads the topic of schemas. */
    static final String SCHEMAS_CONSUMER = "schemas.consumer.";

    ConverterOptions(Map<String, ?> values) {
        super(definition(), values);
    }

    static ConfigDef definition() {
        return own(ConverterConfig.newConfigDef());
    }

    /** Add our options to those that Connect gives to every converter. */
    static ConfigDef own(ConfigDef definition) {
        return definition
            .define(RECORDS, Type.LIST, "", Importance.MEDIUM,
                "The kinds of records wanted (`Segment`, `Start`, ...; with their namespace for those of others): "
                    + "all others are null, as tombstones are. Empty: all kinds")
            .define(PACKED, Type.STRING, "arrays", ValidString.in("arrays", "bytes"), Importance.MEDIUM,
                "Packed columns of segments and marks (frame numbers, timestamps, offsets, attributes, ...): "
                    + "as arrays of numbers and text, or as the bytes of the record")
            .define(STREAM_KEY, Type.STRING, "hex", ValidString.in("hex", "bytes"), Importance.LOW,
                "The stream's id: as 16 hex digits, or as its 8 bytes")
            .define(SCHEMAS_DIRECTORY, Type.STRING, "", Importance.LOW,
                "A folder on the worker whose `.avsc` files are known too, for records of later versions "
                    + "and of other programs; empty: none. Read when the connector starts")
            .define(SCHEMAS_TOPIC, Type.STRING, "", Importance.LOW,
                "The topic of schemas (`<prefix>.schemas`), which is read when a fingerprint is unknown; empty: none. "
                    + "Needs `" + SCHEMAS_CONSUMER + "bootstrap.servers`; its consumer takes any other "
                    + "option with this prefix, such as those of SASL and TLS")
            .define(SCHEMAS_TIMEOUT, Type.INT, 10_000, Range.between(1, 600_000), Importance.LOW,
                "How long reading that topic may block the task, in ms");
    }

    Set<String> records() {
        return Set.copyOf(getList(RECORDS));
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

    /** The topic of schemas, or null. */
    SchemaTopic schemaTopic() {
        String topic = getString(SCHEMAS_TOPIC);
        if (topic.isEmpty()) {
            return null;
        }
        Map<String, Object> consumer = originalsWithPrefix(SCHEMAS_CONSUMER);
        if (!consumer.containsKey(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG)) {
            throw new ConfigException(SCHEMAS_TOPIC + " needs " + SCHEMAS_CONSUMER
                + ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG);
        }
        return new SchemaTopic(topic, consumer, Duration.ofMillis(getInt(SCHEMAS_TIMEOUT)));
    }
}
