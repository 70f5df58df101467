package lichtstrom.connect.hdf5;

import java.io.BufferedInputStream;
import java.io.BufferedReader;
import java.io.DataInputStream;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.channels.Channels;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Deque;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import org.apache.kafka.connect.sink.SinkRecord;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The Python process that writes the files, and the socket to it; for one thread.
 *
 * <p>Whatever it says that is no answer goes to the log of the worker. One that does not answer in
 * time is ended: what it wrote stands in its files, and the next one goes on there.
 */
final class Writer implements AutoCloseable {
    private static final Logger LOG = LoggerFactory.getLogger(Writer.class);

    /** A message holds no more records than this, but one at least. */
    private static final int MESSAGE_NBYTES = 16 * 1024 * 1024;

    private static final long CLOSE_S = 60;
    private static final int LAST_LINES = 8;

    private final long timeoutS;
    private final Path directory;
    private final Process process;
    private final Deque<String> lastLines = new ArrayDeque<>();
    private final Thread reader;
    private final ScheduledExecutorService clock;
    private SocketChannel channel;
    private DataInputStream in;
    private OutputStream out;

    /** Start a writer; blocks until it answers, {@code timeoutS} at most. */
    Writer(Map<String, String> settings, long timeoutS) throws IOException {
        this.timeoutS = timeoutS;
        directory = Files.createTempDirectory("lichtstrom"); // nobody else may look into it
        Path path = directory.resolve("task");
        try (ServerSocketChannel server = ServerSocketChannel.open(StandardProtocolFamily.UNIX)) {
            server.bind(UnixDomainSocketAddress.of(path));
            process = started(path);
            reader = new Thread(this::readOutput, "lichtstrom-writer-" + process.pid());
            reader.setDaemon(true);
            reader.start();
            clock = Executors.newSingleThreadScheduledExecutor(Writer::daemon);
            try {
                connect(server);
                remove(); // who is connected needs no name; a killed worker leaves nothing
                String file = asked(Message.hello(settings), Message::readReady);
                LOG.info("writer {} for {}", process.pid(), file);
            } catch (IOException error) {
                close();
                throw error;
            }
        } catch (IOException error) {
            remove();
            throw error;
        }
    }

    Message.State open(Collection<Integer> partitions) throws IOException {
        return asked(Message.open(partitions), Message::readState);
    }

    /** Have everything brought to the files, and let go of them. */
    void closeFiles() throws IOException {
        asked(Message.close(), Message::readState);
    }

    Message.State state() throws IOException {
        return asked(Message.state(), Message::readState);
    }

    Message.State reported(List<Message.Trouble> troubles) throws IOException {
        return asked(Message.reported(troubles), Message::readState);
    }

    /** Hand records over until there is no room for more: then the state says that it is full. */
    Message.State put(Collection<SinkRecord> records, Consumer<Message.State> listener)
            throws IOException {
        List<SinkRecord> batch = new ArrayList<>();
        long nbytes = 0;
        for (SinkRecord record : records) {
            batch.add(record);
            nbytes += 64 + length(record.key()) + length(record.value());
            if (nbytes >= MESSAGE_NBYTES) {
                Message.State state = asked(Message.records(batch), Message::readState);
                if (state.isFull()) {
                    return state;
                }
                listener.accept(state);
                batch.clear();
                nbytes = 0;
            }
        }
        return asked(Message.records(batch), Message::readState);
    }

    /** Let the writer bring everything to its files and end. */
    @Override
    public void close() {
        try {
            if (channel != null) {
                channel.close(); // it ends by itself then
            }
            if (!process.waitFor(CLOSE_S, TimeUnit.SECONDS)) {
                LOG.warn("writer {} does not end: killed", process.pid());
            }
        } catch (IOException error) {
            LOG.warn("writer {}: {}", process.pid(), error.toString());
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
        }
        process.destroyForcibly();
        clock.shutdownNow();
    }

    @FunctionalInterface
    private interface Answer<T> {
        T read(DataInputStream in) throws IOException;
    }

    private <T> T asked(byte[] question, Answer<T> answer) throws IOException {
        ScheduledFuture<?> limit = clock.schedule(this::giveUp, timeoutS, TimeUnit.SECONDS);
        try {
            out.write(question);
            return answer.read(in);
        } catch (Message.FailedException error) {
            throw error;
        } catch (IOException error) {
            throw new IOException("the writer died: " + lastWords(), error);
        } finally {
            limit.cancel(false);
        }
    }

    private void giveUp() {
        LOG.warn("writer {} did not answer in {} s: killed", process.pid(), timeoutS);
        process.destroyForcibly();
    }

    private void connect(ServerSocketChannel server) throws IOException {
        server.configureBlocking(false);
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(timeoutS);
        while ((channel = server.accept()) == null) {
            if (!process.isAlive() || System.nanoTime() > deadline) {
                throw new IOException("the writer did not start: " + lastWords());
            }
            try {
                Thread.sleep(20);
            } catch (InterruptedException error) {
                Thread.currentThread().interrupt();
                throw new IOException("interrupted", error);
            }
        }
        channel.configureBlocking(true);
        in = new DataInputStream(new BufferedInputStream(Channels.newInputStream(channel)));
        out = Channels.newOutputStream(channel);
    }

    private static Process started(Path socket) throws IOException {
        String given = System.getenv("LICHTSTROM_COMMAND");
        List<String> command = new ArrayList<>();
        command.addAll(Arrays.asList(given == null ? new String[] {"lichtstrom"} : given.split("\n")));
        command.addAll(List.of("sink", "connect-writer", "--socket", socket.toString()));
        try {
            return new ProcessBuilder(command)
                    .redirectErrorStream(true)
                    .redirectInput(ProcessBuilder.Redirect.from(new File("/dev/null")))
                    .start();
        } catch (IOException error) {
            throw new IOException(
                    "cannot start the writer ("
                            + error.getMessage()
                            + "): install lichtstrom where this worker runs, on its PATH, or name"
                            + " the program by LICHTSTROM_COMMAND",
                    error);
        }
    }

    private void readOutput() {
        try (BufferedReader lines =
                new BufferedReader(
                        new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8))) {
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                LOG.info("writer {}: {}", process.pid(), line);
                synchronized (lastLines) {
                    lastLines.add(line);
                    if (lastLines.size() > LAST_LINES) {
                        lastLines.remove();
                    }
                }
            }
        } catch (IOException error) {
            LOG.debug("writer {}", process.pid(), error);
        }
    }

    private String lastWords() {
        try {
            process.waitFor(1, TimeUnit.SECONDS);
            reader.join(1000);
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
        }
        String status = process.isAlive() ? "it runs" : "exit status " + process.exitValue();
        synchronized (lastLines) {
            return status + "; " + String.join(" | ", lastLines);
        }
    }

    private void remove() {
        try {
            Files.deleteIfExists(directory.resolve("task"));
            Files.deleteIfExists(directory);
        } catch (IOException error) {
            LOG.debug("{}", directory, error);
        }
    }

    private static int length(Object bytes) {
        return bytes == null ? 0 : ((byte[]) bytes).length;
    }

    private static Thread daemon(Runnable work) {
        Thread thread = new Thread(work, "lichtstrom-writer-clock");
        thread.setDaemon(true);
        return thread;
    }
}
