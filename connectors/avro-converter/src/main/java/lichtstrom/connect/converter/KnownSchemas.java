package lichtstrom.connect.converter;

import java.io.IOException;
import java.io.InputStream;
import java.net.JarURLConnection;
import java.net.URISyntaxException;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.jar.JarEntry;
import java.util.jar.JarFile;
import java.util.stream.Stream;
import org.apache.kafka.common.config.ConfigException;
import org.apache.kafka.connect.errors.ConnectException;
import org.apache.kafka.connect.errors.DataException;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** All schemas that a converter knows, by fingerprint: those in its jar, of a folder, and of a topic. Thread-safe. */
final class KnownSchemas {
    private static final Logger LOG = LoggerFactory.getLogger(KnownSchemas.class);
    private static final String FOLDER = "schemas/";
    private static final String SUFFIX = ".avsc";
    /** A fingerprint that nobody knows is looked for on the topic as often as this, not with each record. */
    private static final long AGAIN_NS = TimeUnit.SECONDS.toNanos(30);
    private static final int MAX_UNKNOWN = 1000;

    private final ConverterOptions options;
    private final SchemaTopic topic;
    private final Map<String, KnownSchema> byFingerprint = new ConcurrentHashMap<>();
    private final Map<String, Long> unknownSinceNs = new LinkedHashMap<>() {
        private static final long serialVersionUID = 1;

        @Override
        protected boolean removeEldestEntry(Map.Entry<String, Long> eldest) {
            return size() > MAX_UNKNOWN;
        }
    };

    /** Read them; throws ConfigException for a folder that cannot be read or holds a schema that cannot be used. */
    KnownSchemas(ConverterOptions options) {
        this.options = options;
        topic = options.schemaTopic();
        shipped().values().forEach(this::add);
        if (!options.schemasDirectory().isEmpty()) {
            Path folder = Path.of(options.schemasDirectory());
            try {
                for (Path path : files(folder)) {
                    addFile(path);
                }
            } catch (IOException error) {
                throw new ConfigException(ConverterOptions.SCHEMAS_DIRECTORY, folder, error.toString());
            }
        }
    }

    /**
     * Return the schema of this fingerprint (16 hex digits), or null.
     *
     * <p>Reads the topic for one that is unknown, which blocks; throws RetriableException if it cannot be read.
     */
    KnownSchema find(String fingerprint) {
        KnownSchema found = byFingerprint.get(fingerprint);
        return found != null || topic == null ? found : look(fingerprint);
    }

    private synchronized KnownSchema look(String fingerprint) {
        Long since = unknownSinceNs.get(fingerprint);
        if (byFingerprint.containsKey(fingerprint) || since != null && System.nanoTime() - since < AGAIN_NS) {
            return byFingerprint.get(fingerprint);
        }
        for (String text : topic.read()) {
            try {
                add(text);
            } catch (RuntimeException error) {
                LOG.warn("a schema on the topic of schemas is left out: {}", error.getMessage());
            }
        }
        unknownSinceNs.remove(fingerprint);
        unknownSinceNs.put(fingerprint, System.nanoTime());
        return byFingerprint.get(fingerprint);
    }

    private void add(String text) {
        // By what it is, not by what it is filed under: a wrong key on the topic does no harm.
        KnownSchema schema = new KnownSchema(text, options);
        byFingerprint.putIfAbsent(schema.fingerprint(), schema);
    }

    private void addFile(Path path) throws IOException {
        try {
            add(Files.readString(path));
        } catch (DataException error) {
            throw new ConfigException(ConverterOptions.SCHEMAS_DIRECTORY, path, error.getMessage());
        }
    }

    /** Text by name of the schemas beside this class. */
    static Map<String, String> shipped() {
        URL folder = KnownSchemas.class.getResource(FOLDER + "segment" + SUFFIX);
        Map<String, String> found = new HashMap<>();
        try {
            if (folder.openConnection() instanceof JarURLConnection connection) {
                // A cached JarFile would stay open, and be closed under others who read the same jar.
                connection.setUseCaches(false);
                try (JarFile jar = connection.getJarFile()) {
                    String prefix = connection.getEntryName().replaceAll("[^/]*$", "");
                    for (JarEntry entry : jar.stream().filter(e -> isSchema(e.getName(), prefix)).toList()) {
                        try (InputStream content = jar.getInputStream(entry)) {
                            found.put(entry.getName(), new String(content.readAllBytes(), StandardCharsets.UTF_8));
                        }
                    }
                }
            } else {
                for (Path path : files(Path.of(folder.toURI()).getParent())) {
                    found.put(path.getFileName().toString(), Files.readString(path));
                }
            }
        } catch (IOException | URISyntaxException error) {
            throw new ConnectException("the schemas in the converter's jar cannot be read: " + error, error);
        }
        return found;
    }

    private static boolean isSchema(String entry, String prefix) {
        return entry.startsWith(prefix) && entry.endsWith(SUFFIX);
    }

    private static List<Path> files(Path folder) throws IOException {
        try (Stream<Path> entries = Files.list(folder)) {
            return new ArrayList<>(entries.filter(path -> path.toString().endsWith(SUFFIX)).sorted().toList());
        }
    }
}
