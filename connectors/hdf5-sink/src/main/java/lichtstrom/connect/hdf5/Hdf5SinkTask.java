package lichtstrom.connect.hdf5;

import java.io.IOException;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.NavigableMap;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.connect.errors.ConnectException;
import org.apache.kafka.connect.errors.DataException;
import org.apache.kafka.connect.errors.RetriableException;
import org.apache.kafka.connect.sink.ErrantRecordReporter;
import org.apache.kafka.connect.sink.SinkRecord;
import org.apache.kafka.connect.sink.SinkTask;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Hands raw records to a writer, and commits what it has brought to its files.
 *
 * <p>Where to read from stands in the files: a writer that is started, for the first time or after
 * it died, says so, and the consumer goes there. Offsets that Kafka Connect commits tell people how
 * far it is.
 */
public class Hdf5SinkTask extends SinkTask {
    private static final Logger LOG = LoggerFactory.getLogger(Hdf5SinkTask.class);

    private static final long BUSY_PAUSE_MS = 100;
    private static final long FIRST_PAUSE_MS = 500;
    private static final long LONGEST_PAUSE_MS = 15_000;
    private static final long REPORT_S = 30;

    private Map<String, String> settings = Map.of();
    private long timeoutS;
    private Writer writer;
    private long pauseMs = FIRST_PAUSE_MS;
    private String done = "";

    /** Why the last writer has ended, if Kafka Connect has not heard of it yet. */
    private IOException unheard;

    /** Partitions of ours, and those of them that the writer has opened. */
    private final Map<Integer, TopicPartition> assigned = new HashMap<>();

    private final Set<Integer> opened = new TreeSet<>();
    private final Map<Integer, Long> markers = new HashMap<>();

    /** What the writer has said of records that cannot be written, and Kafka Connect not heard. */
    private final List<Message.Trouble> troubles = new ArrayList<>();

    /** What is not in a file yet, for the report of what cannot be written. */
    private final Map<Integer, NavigableMap<Long, SinkRecord>> pending = new HashMap<>();

    @Override
    public String version() {
        return Settings.version();
    }

    @Override
    public void start(Map<String, String> given) {
        settings = new HashMap<>(Settings.parsed(given));
        settings.put(Settings.TASKS, given.getOrDefault(Settings.TASKS, "1"));
        timeoutS = Long.parseLong(settings.get(Settings.ANSWER_S));
    }

    @Override
    public void open(Collection<TopicPartition> partitions) {
        for (TopicPartition partition : partitions) {
            assigned.put(partition.partition(), partition);
        }
    }

    @Override
    public void put(Collection<SinkRecord> records) {
        if (assigned.isEmpty()) {
            return; // more tasks than partitions
        }
        if (unheard != null) {
            throw failed(unheard);
        }
        try {
            if (opened.size() < assigned.size()) {
                openAll();
                return; // the consumer goes where the files end: these come again
            }
            records.forEach(this::remember);
            Message.State state =
                    records.isEmpty() ? writer.state() : writer.put(records, this::take);
            take(state);
            reportTroubles();
            if (state.isFull()) {
                context.timeout(BUSY_PAUSE_MS);
                throw new RetriableException("the writer has no room for more records yet");
            }
        } catch (IOException error) {
            throw failed(error);
        }
    }

    @Override
    public Map<TopicPartition, OffsetAndMetadata> preCommit(
            Map<TopicPartition, OffsetAndMetadata> current) {
        Map<TopicPartition, OffsetAndMetadata> found = new HashMap<>();
        if (writer == null) {
            return found;
        }
        try {
            take(writer.state());
        } catch (IOException error) {
            letGo(error);
            unheard = error; // what is thrown here would not fail the task
            context.timeout(BUSY_PAUSE_MS); // put comes soon, also without records
            return found;
        }
        for (Integer partition : opened) {
            Long marker = markers.get(partition);
            if (marker != null) {
                found.put(assigned.get(partition), new OffsetAndMetadata(marker));
            }
        }
        return found;
    }

    @Override
    public void close(Collection<TopicPartition> partitions) {
        try {
            if (writer != null) {
                writer.closeFiles();
            }
        } catch (IOException error) {
            letGo(error);
        }
        partitions.forEach(partition -> assigned.remove(partition.partition()));
        forget(); // what stays is opened again, where its files end
    }

    @Override
    public void stop() {
        stopWriter();
    }

    /** Have the writer open every partition, and read each from where its file ends. */
    private void openAll() throws IOException {
        if (writer == null) {
            writer = new Writer(settings, timeoutS);
        }
        Message.State state = writer.open(assigned.keySet());
        forget();
        opened.addAll(assigned.keySet());
        Map<TopicPartition, Long> begins = new HashMap<>();
        for (Map.Entry<Integer, TopicPartition> entry : assigned.entrySet()) {
            Long marker = state.markers().get(entry.getKey());
            if (marker != null) { // else the topic has got it since the stream began
                begins.put(entry.getValue(), marker);
            }
        }
        context.offset(begins);
        take(state);
        LOG.info("partitions and offsets to read from: {}", begins);
    }

    private void remember(SinkRecord record) {
        pending.computeIfAbsent(record.kafkaPartition(), key -> new TreeMap<>())
                .put(record.kafkaOffset(), record);
    }

    private void take(Message.State state) {
        state.markers().forEach(this::advance);
        troubles.addAll(state.troubles());
        if (!state.done().equals(done)) {
            done = state.done();
            LOG.info("finished: {}", done);
        }
    }

    private void advance(int partition, long marker) {
        Long before = markers.put(partition, marker);
        if (before != null && marker > before) {
            pauseMs = FIRST_PAUSE_MS; // it does write
        }
        if (pending.containsKey(partition)) {
            pending.get(partition).headMap(marker).clear();
        }
    }

    /** Called by put alone: what preCommit throws would not fail the task. */
    private void reportTroubles() throws IOException {
        if (!troubles.isEmpty()) {
            troubles.forEach(this::report);
            List<Message.Trouble> told = List.copyOf(troubles);
            troubles.clear();
            take(writer.reported(told));
        }
    }

    /** Tell Kafka Connect, which may keep a dead letter or let the task fail; waits until it has. */
    private void report(Message.Trouble trouble) {
        String text = trouble.partition() + "@" + trouble.offset() + ": " + trouble.reason();
        LOG.error("cannot be written: {}", text);
        SinkRecord record =
                pending.getOrDefault(trouble.partition(), new TreeMap<>()).get(trouble.offset());
        ErrantRecordReporter reporter = context.errantRecordReporter();
        if (record == null || reporter == null) { // neither dead letters nor a log were asked for
            throw new ConnectException(text);
        }
        try {
            reporter.report(record, new DataException(text)).get(REPORT_S, TimeUnit.SECONDS);
        } catch (ExecutionException | TimeoutException error) {
            throw failed(new IOException("no dead letter could be sent", error));
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
            throw new ConnectException(error);
        }
    }

    /** End this writer, and say whether another one may do better. */
    private ConnectException failed(IOException error) {
        unheard = null;
        letGo(error);
        if (error instanceof Message.FailedException said && !said.retriable) {
            return new ConnectException(said.getMessage(), said);
        }
        context.timeout(pauseMs);
        pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
        return new RetriableException(error.getMessage(), error);
    }

    private void letGo(IOException error) {
        LOG.warn("writer ends: {}", error.getMessage());
        stopWriter();
    }

    private void forget() {
        opened.clear();
        markers.clear();
        pending.clear();
        troubles.clear();
    }

    private void stopWriter() {
        forget();
        if (writer != null) {
            writer.close();
            writer = null;
        }
    }
}
