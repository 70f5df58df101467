package lichtstrom.connect.converter;

import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import org.apache.kafka.common.config.ConfigDef;

/** Prints the converter's options as a Markdown table, for {@code docs/connect-converter.md}. */
final class OptionsTable {
    private OptionsTable() {
    }

    public static void main(String[] arguments) {
        System.out.println("| option | values | default | meaning |");
        System.out.println("| --- | --- | --- | --- |");
        ConfigDef definition = ConverterOptions.own(new ConfigDef());
        List<ConfigDef.ConfigKey> keys = definition.configKeys().values().stream()
            .sorted(Comparator.comparing((ConfigDef.ConfigKey key) -> key.importance).thenComparing(key -> key.name))
            .toList();
        for (ConfigDef.ConfigKey key : keys) {
            System.out.printf("| `%s` | %s | %s | %s |%n", key.name, values(key), shown(key.defaultValue),
                key.documentation);
        }
    }

    private static String values(ConfigDef.ConfigKey key) {
        Object allowed = key.validator == null ? key.type.name().toLowerCase(Locale.ROOT) : key.validator;
        return allowed.toString().replaceAll("^\\[|]$", "");
    }

    private static String shown(Object value) {
        String text = value instanceof List<?> list && list.isEmpty() ? "" : value.toString();
        return text.isEmpty() ? "empty" : "`" + text + "`";
    }
}
