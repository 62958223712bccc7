// Cassandra by its own Java driver. A partition is a device, a row a moment, a column a metric; table options as they are
// without settings. Written as its documentation advises: prepared statements, asynchronously, rows of one partition in
// one unlogged batch, and never more requests on their way than a connection takes.

import com.datastax.oss.driver.api.core.CqlSession;
import com.datastax.oss.driver.api.core.config.DefaultDriverOption;
import com.datastax.oss.driver.api.core.config.DriverConfigLoader;
import com.datastax.oss.driver.api.core.cql.BatchStatement;
import com.datastax.oss.driver.api.core.cql.BatchableStatement;
import com.datastax.oss.driver.api.core.cql.BoundStatementBuilder;
import com.datastax.oss.driver.api.core.cql.DefaultBatchType;
import com.datastax.oss.driver.api.core.cql.PreparedStatement;
import com.datastax.oss.driver.api.core.cql.Row;
import com.datastax.oss.driver.api.core.cql.Statement;
import java.math.BigInteger;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import javax.management.ObjectName;
import javax.management.remote.JMXConnector;
import javax.management.remote.JMXConnectorFactory;
import javax.management.remote.JMXServiceURL;

/** Arguments: the port to listen on, the names of the metrics with commas between, the store's ports for CQL and JMX. */
final class CassandraLoader implements Loader.Store {
    private static final String KEYSPACE = "bench";
    private static final String TABLE = KEYSPACE + ".m";
    /** The driver's one connection takes 1,024; there are 8 writers. */
    private static final int REQUESTS_OF_A_WRITER_MAX = 128;
    /** The store warns of batches above 5 KiB. */
    private static final int ROWS_OF_A_BATCH_MAX = 24;
    /** Instead of two seconds: what is slow shall be counted, not fail. */
    private static final Duration TIMEOUT = Duration.ofSeconds(60);
    /** So that no part takes long, however much there is. */
    private static final int PARTS_OF_A_COUNT = 512;

    private final CqlSession session;
    private final PreparedStatement insert;
    private final String[] names;
    private final int jmxPort;

    private CassandraLoader(CqlSession session, String[] names, int jmxPort) {
        String columns = String.join(", ", names);
        String marks = Arrays.stream(names).map(name -> "?").collect(Collectors.joining(", "));
        this.session = session;
        this.names = names;
        this.jmxPort = jmxPort;
        session.execute(
                "CREATE KEYSPACE bench WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}");
        session.execute(
                "CREATE TABLE " + TABLE + " (device text, ts timestamp, "
                        + String.join(" double, ", names) + " double, PRIMARY KEY (device, ts))");
        this.insert = session.prepare(
                "INSERT INTO " + TABLE + " (device, ts, " + columns + ") VALUES (?, ?, " + marks + ")");
    }

    public static void main(String[] arguments) throws Exception {
        DriverConfigLoader settings =
                DriverConfigLoader.programmaticBuilder()
                        .withDuration(DefaultDriverOption.REQUEST_TIMEOUT, TIMEOUT)
                        .build();
        CqlSession session =
                CqlSession.builder()
                        .addContactPoint(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[2])))
                        .withLocalDatacenter("datacenter1")
                        .withConfigLoader(settings)
                        .build();
        String[] names = arguments[1].split(",");
        int jmxPort = Integer.parseInt(arguments[3]);
        Loader.serve(Integer.parseInt(arguments[0]), new CassandraLoader(session, names, jmxPort));
    }

    @Override
    public Loader.Writer writer() {
        Semaphore free = new Semaphore(REQUESTS_OF_A_WRITER_MAX);
        AtomicReference<Throwable> failed = new AtomicReference<>();
        return batch -> {
            for (Statement<?> statement : statements(batch)) {
                free.acquire();
                session.executeAsync(statement).whenComplete((answer, failure) -> {
                    if (failure != null) {
                        failed.compareAndSet(null, failure);
                    }
                    free.release();
                });
            }
            free.acquire(REQUESTS_OF_A_WRITER_MAX);
            free.release(REQUESTS_OF_A_WRITER_MAX);
            if (failed.get() != null) {
                throw new IllegalStateException(failed.get());
            }
        };
    }

    private List<Statement<?>> statements(Loader.Batch batch) {
        Map<String, List<BatchableStatement<?>>> partitions = new LinkedHashMap<>();
        for (int tick = 0; tick < batch.ticks; tick++) {
            String device = new String(batch.devices[tick], StandardCharsets.UTF_8);
            BoundStatementBuilder row = insert.boundStatementBuilder();
            row.setString(0, device).setInstant(1, Instant.ofEpochMilli(batch.millis[tick]));
            for (int metric = 0; metric < batch.metrics; metric++) {
                row.setDouble(2 + metric, batch.value(tick, metric));
            }
            partitions.computeIfAbsent(device, key -> new ArrayList<>()).add(row.build());
        }
        List<Statement<?>> statements = new ArrayList<>();
        for (List<BatchableStatement<?>> rows : partitions.values()) {
            for (int from = 0; from < rows.size(); from += ROWS_OF_A_BATCH_MAX) {
                List<BatchableStatement<?>> some = rows.subList(from, Math.min(rows.size(), from + ROWS_OF_A_BATCH_MAX));
                statements.add(
                        some.size() == 1
                                ? some.get(0)
                                : BatchStatement.newInstance(DefaultBatchType.UNLOGGED).addAll(some));
            }
        }
        return statements;
    }

    /** What `nodetool flush` and `nodetool compact` do; both return when it is done. */
    @Override
    public void settle() throws Exception {
        JMXServiceURL url = new JMXServiceURL("service:jmx:rmi:///jndi/rmi://127.0.0.1:" + jmxPort + "/jmxrmi");
        try (JMXConnector connector = JMXConnectorFactory.connect(url)) {
            ObjectName storage = new ObjectName("org.apache.cassandra.db:type=StorageService");
            String strings = String[].class.getName();
            connector.getMBeanServerConnection().invoke(
                    storage,
                    "forceKeyspaceFlush",
                    new Object[] {KEYSPACE, new String[0]},
                    new String[] {"java.lang.String", strings});
            connector.getMBeanServerConnection().invoke(
                    storage,
                    "forceKeyspaceCompaction",
                    new Object[] {false, KEYSPACE, new String[0]},
                    new String[] {"boolean", "java.lang.String", strings});
        }
    }

    /** Values that are there, counted by the store in parts of its ring of tokens. */
    @Override
    public long count() {
        String counts = Arrays.stream(names).map(name -> "count(" + name + ")").collect(Collectors.joining(", "));
        PreparedStatement part =
                session.prepare("SELECT " + counts + " FROM " + TABLE + " WHERE token(device) > ? AND token(device) <= ?");
        // No device has the least token: it is kept for "nothing".
        BigInteger least = BigInteger.valueOf(Long.MIN_VALUE);
        BigInteger span = BigInteger.ONE.shiftLeft(64).subtract(BigInteger.ONE);
        BigInteger parts = BigInteger.valueOf(PARTS_OF_A_COUNT);
        return IntStream.range(0, PARTS_OF_A_COUNT)
                .mapToLong(n -> {
                    long from = least.add(span.multiply(BigInteger.valueOf(n)).divide(parts)).longValueExact();
                    long to = least.add(span.multiply(BigInteger.valueOf(n + 1)).divide(parts)).longValueExact();
                    Row row = session.execute(part.bind(from, to)).one();
                    return IntStream.range(0, names.length).mapToLong(row::getLong).sum();
                })
                .sum();
    }
}
