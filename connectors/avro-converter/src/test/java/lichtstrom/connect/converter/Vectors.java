package lichtstrom.connect.converter;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import java.util.List;

/**
 * One record of every kind as Python's codec writes it ({@code bytes}), and what the converter must show ({@code
 * shown}); tests/services/test_connect_converter.py makes them.
 */
record Vectors(String name, byte[] bytes, JsonNode shown) {
    static List<Vectors> all() {
        ObjectMapper mapper = new ObjectMapper();
        try (InputStream lines = Vectors.class.getResourceAsStream("/records.jsonl")) {
            return new String(lines.readAllBytes(), StandardCharsets.UTF_8).lines().map(line -> {
                try {
                    JsonNode node = mapper.readTree(line);
                    byte[] bytes = HexFormat.of().parseHex(node.get("bytes").asText());
                    return new Vectors(node.get("name").asText(), bytes, node.get("shown"));
                } catch (IOException error) {
                    throw new IllegalStateException(line, error);
                }
            }).toList();
        } catch (IOException error) {
            throw new IllegalStateException(error);
        }
    }

    static Vectors of(String name) {
        return all().stream().filter(vector -> vector.name().equals(name)).findFirst().orElseThrow();
    }

    @Override
    public String toString() {
        return name;
    }
}
