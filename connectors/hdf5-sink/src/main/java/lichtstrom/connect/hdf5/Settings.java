package lichtstrom.connect.hdf5;

import static org.apache.kafka.common.config.ConfigDef.NO_DEFAULT_VALUE;

import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.common.config.ConfigDef.Importance;
import org.apache.kafka.common.config.ConfigDef.Range;
import org.apache.kafka.common.config.ConfigDef.Type;
import org.apache.kafka.common.config.ConfigDef.ValidString;
import org.apache.kafka.common.config.ConfigException;

/** What a connector can be told; the writer gets all of it as text. */
final class Settings {
    static final String STREAM = "stream";
    static final String OUT = "out.dir";
    static final String LAYOUT = "layout";
    static final String FRAMES_PER_FILE = "frames.per.file";
    static final String ANSWER_S = "writer.timeout.s";
    static final String TASKS = "tasks.max";

    static final ConfigDef DEFINITION =
            new ConfigDef()
                    .define(
                            STREAM,
                            Type.STRING,
                            NO_DEFAULT_VALUE,
                            Settings::checkStream,
                            Importance.HIGH,
                            "The stream to write: BEAMTIME/DETECTOR/STREAM. It has begun already;"
                                    + " the file is finished when it ends.")
                    .define(
                            OUT,
                            Type.STRING,
                            NO_DEFAULT_VALUE,
                            Settings::checkDirectory,
                            Importance.HIGH,
                            "Where the files go: an absolute path that every worker sees, a shared"
                                    + " file system if there are several.")
                    .define(
                            LAYOUT,
                            Type.STRING,
                            "nxmx",
                            ValidString.in("nxmx", "nxdata", "nxtomo", "dectris"),
                            Importance.MEDIUM,
                            "nxmx; nxdata: the same without what is NXmx' own; nxtomo; dectris: a"
                                    + " master file that links to data files.")
                    .define(
                            "compression",
                            Type.STRING,
                            "bslz4",
                            ValidString.in("bslz4", "as-is", "none"),
                            Importance.MEDIUM,
                            "Of the images; as-is keeps the encoding of the first frame where HDF5"
                                    + " knows it.")
                    .define(
                            FRAMES_PER_FILE,
                            Type.INT,
                            0,
                            Range.atLeast(0),
                            Importance.MEDIUM,
                            "At most so many numbers in a file, and a master file that shows them"
                                    + " as one; 0: all. Needs tasks.max=1.")
                    .define(
                            "check",
                            Type.STRING,
                            "framing",
                            ValidString.in("framing", "full"),
                            Importance.LOW,
                            "What is looked at of payloads that stay as they are: their framing, or"
                                    + " every pixel.")
                    .define(
                            "map",
                            Type.STRING,
                            "",
                            Importance.LOW,
                            "A TOML file with fields of the user's own; see the HDF5 sink.")
                    .define(
                            "overwrite",
                            Type.BOOLEAN,
                            false,
                            Importance.LOW,
                            "Replace a file of this name once the new one is complete; a finished"
                                    + " file of the same stream stays.")
                    .define(
                            ANSWER_S,
                            Type.INT,
                            60,
                            Range.between(1, 280),
                            Importance.LOW,
                            "Seconds after which a writer that does not answer is ended and started"
                                    + " anew; less than max.poll.interval.ms.");

    private Settings() {}

    /** Return every setting of ours as text, checked. */
    static Map<String, String> parsed(Map<String, String> given) {
        Map<String, String> found = new LinkedHashMap<>();
        DEFINITION.parse(given).forEach((name, value) -> found.put(name, String.valueOf(value)));
        return found;
    }

    static String version() {
        String version = Settings.class.getPackage().getImplementationVersion();
        return version == null ? "unpacked" : version;
    }

    /** Print the table of the settings, for the documentation. */
    public static void main(String[] arguments) {
        System.out.println("| setting | default | what it is |");
        System.out.println("| --- | --- | --- |");
        for (String name : DEFINITION.names()) {
            ConfigDef.ConfigKey key = DEFINITION.configKeys().get(name);
            String value = key.hasDefault() ? "`" + key.defaultValue + "`" : "needed";
            String words = key.documentation;
            System.out.printf(
                    "| `%s` | %s | %s |%n", name, value.equals("``") ? "" : value, words);
        }
    }

    private static void checkStream(String name, Object value) {
        if (!String.valueOf(value).matches("[^/]+/[^/]+/[^/]+")) {
            throw new ConfigException(name, value, "must be BEAMTIME/DETECTOR/STREAM");
        }
    }

    private static void checkDirectory(String name, Object value) {
        try {
            if (Path.of(String.valueOf(value)).isAbsolute()) {
                return;
            }
        } catch (InvalidPathException error) {
            throw new ConfigException(name, value, error.getReason());
        }
        throw new ConfigException(name, value, "must be an absolute path");
    }
}
