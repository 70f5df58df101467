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
import java.util.List;
import java.util.Map;
import java.util.jar.JarEntry;
import java.util.jar.JarFile;
import java.util.stream.Stream;
import org.apache.kafka.common.config.ConfigException;
import org.apache.kafka.connect.errors.ConnectException;
import org.apache.kafka.connect.errors.DataException;

/** All schemas that a converter knows, by fingerprint: those in its jar, and those of a folder. */
final class KnownSchemas {
    private static final String FOLDER = "schemas/";
    private static final String SUFFIX = ".avsc";

    private final Map<String, KnownSchema> byFingerprint = new HashMap<>();

    /** Read them; throws ConfigException for a folder that cannot be read or holds a schema that cannot be used. */
    KnownSchemas(ConverterOptions options) {
        shipped().forEach((name, text) -> add(new KnownSchema(text, options)));
        if (!options.schemasDirectory().isEmpty()) {
            Path folder = Path.of(options.schemasDirectory());
            try {
                for (Path path : files(folder)) {
                    add(new KnownSchema(Files.readString(path), options));
                }
            } catch (IOException | DataException error) {
                throw new ConfigException(ConverterOptions.SCHEMAS_DIRECTORY, folder, error.toString());
            }
        }
    }

    /** The schema of this fingerprint (16 hex digits), or null. */
    KnownSchema find(String fingerprint) {
        return byFingerprint.get(fingerprint);
    }

    private void add(KnownSchema schema) {
        byFingerprint.putIfAbsent(schema.fingerprint(), schema);
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
