package lichtstrom.connect.converter;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.connect.errors.RetriableException;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** The topic on which lichtstrom keeps its schemas: key the fingerprint in hex, value JSON with {@code schema}. */
final class SchemaTopic {
    private static final Logger LOG = LoggerFactory.getLogger(SchemaTopic.class);
    private static final Duration STEP = Duration.ofMillis(200);

    private final String topic;
    private final Map<String, Object> settings;
    private final Duration limit;

    SchemaTopic(String topic, Map<String, Object> consumer, Duration limit) {
        this.topic = topic;
        this.limit = limit;
        settings = new HashMap<>(consumer);
        // No group: every converter reads the whole topic, and leaves no trace on the broker.
        settings.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        settings.put(ConsumerConfig.ALLOW_AUTO_CREATE_TOPICS_CONFIG, false);
    }

    /**
     * Return the texts of all schemas on the topic; entries that are not whole are left out.
     *
     * <p>Blocks until its end, at most for the limit; throws RetriableException if that is not reached.
     */
    List<String> read() {
        Map<String, String> found = new HashMap<>();
        long deadline = System.nanoTime() + limit.toNanos();
        ByteArrayDeserializer plain = new ByteArrayDeserializer();
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(settings, plain, plain)) {
            List<TopicPartition> partitions = consumer.partitionsFor(topic, left(deadline)).stream()
                .map(info -> new TopicPartition(topic, info.partition())).toList();
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions, left(deadline));
            while (partitions.stream().anyMatch(p -> consumer.position(p, left(deadline)) < ends.get(p))) {
                consumer.poll(STEP).forEach(entry -> take(entry, found));
            }
        } catch (KafkaException error) {
            throw new RetriableException("the schemas on topic " + topic + " cannot be read: " + error, error);
        }
        return List.copyOf(found.values());
    }

    private Duration left(long deadline) {
        long leftNs = deadline - System.nanoTime();
        if (leftNs <= 0) {
            throw new RetriableException("topic " + topic + " was not read to its end in " + limit.toMillis() + " ms");
        }
        return Duration.ofNanos(leftNs);
    }

    private void take(ConsumerRecord<byte[], byte[]> entry, Map<String, String> found) {
        if (entry.key() == null || entry.value() == null) {
            return;
        }
        try {
            JsonNode schema = new ObjectMapper().readTree(entry.value()).path("schema");
            if (schema.isTextual()) {
                found.put(new String(entry.key(), StandardCharsets.UTF_8), schema.textValue());
            }
        } catch (IOException error) {
            LOG.warn("topic {}: the entry at offset {} is no JSON and left out", topic, entry.offset());
        }
    }
}
