package lichtstrom.connect.hdf5;

import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.common.config.Config;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.common.config.ConfigValue;
import org.apache.kafka.connect.connector.Task;
import org.apache.kafka.connect.sink.SinkConnector;

/** One stream of lichtstrom as HDF5/NeXus files. */
public class Hdf5SinkConnector extends SinkConnector {
    private Map<String, String> settings = Map.of();

    @Override
    public String version() {
        return Settings.version();
    }

    @Override
    public void start(Map<String, String> given) {
        settings = Settings.parsed(given);
    }

    @Override
    public Class<? extends Task> taskClass() {
        return Hdf5SinkTask.class;
    }

    @Override
    public List<Map<String, String>> taskConfigs(int maxTasks) {
        Map<String, String> one = new HashMap<>(settings);
        one.put(Settings.TASKS, Integer.toString(maxTasks));
        return Collections.nCopies(maxTasks, one);
    }

    @Override
    public void stop() {}

    @Override
    public ConfigDef config() {
        return Settings.DEFINITION;
    }

    @Override
    public Config validate(Map<String, String> given) {
        Config found = super.validate(given);
        boolean several = !"1".equals(given.getOrDefault(Settings.TASKS, "1"));
        for (ConfigValue value : found.configValues()) {
            if (value.name().equals(Settings.FRAMES_PER_FILE)
                    && several
                    && (!Integer.valueOf(0).equals(value.value())
                            || "dectris".equals(given.get(Settings.LAYOUT)))) {
                value.addErrorMessage(
                        "files of so many frames have one writer: set tasks.max to 1");
            }
        }
        return found;
    }
}
