// HBase by its own client. A row is a device and a moment, as its users lay out readings; a column a metric:
//
//     device-0000017 | milliseconds since 1970, 8 bytes big-endian    d:metric_00 = 8-byte float, big-endian   ...
//
// One region and a column family as they are made without settings: no compression, no block encoding.

import java.util.ArrayList;
import java.util.List;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.hbase.HBaseConfiguration;
import org.apache.hadoop.hbase.TableName;
import org.apache.hadoop.hbase.client.Admin;
import org.apache.hadoop.hbase.client.ColumnFamilyDescriptorBuilder;
import org.apache.hadoop.hbase.client.CompactionState;
import org.apache.hadoop.hbase.client.Connection;
import org.apache.hadoop.hbase.client.ConnectionFactory;
import org.apache.hadoop.hbase.client.Put;
import org.apache.hadoop.hbase.client.Result;
import org.apache.hadoop.hbase.client.ResultScanner;
import org.apache.hadoop.hbase.client.Scan;
import org.apache.hadoop.hbase.client.Table;
import org.apache.hadoop.hbase.client.TableDescriptorBuilder;
import org.apache.hadoop.hbase.filter.KeyOnlyFilter;
import org.apache.hadoop.hbase.util.Bytes;

/** Arguments: the port to listen on, the names of the metrics with commas between. hbase-site.xml is on the class path. */
final class HBaseLoader implements Loader.Store {
    private static final TableName TABLE = TableName.valueOf("bench");
    private static final byte[] FAMILY = Bytes.toBytes("d");
    private static final long COMPACTED_WITHIN_MS = 600_000;

    private final Connection connection;
    private final byte[][] qualifiers;

    private HBaseLoader(Connection connection, String[] names) {
        this.connection = connection;
        this.qualifiers = new byte[names.length][];
        for (int metric = 0; metric < names.length; metric++) {
            qualifiers[metric] = Bytes.toBytes(names[metric]);
        }
    }

    public static void main(String[] arguments) throws Exception {
        Configuration configuration = HBaseConfiguration.create();
        Connection connection = ConnectionFactory.createConnection(configuration);
        // The client itself tries again until the server is up.
        try (Admin admin = connection.getAdmin()) {
            admin.createTable(
                    TableDescriptorBuilder.newBuilder(TABLE)
                            .setColumnFamily(ColumnFamilyDescriptorBuilder.of(FAMILY))
                            .build());
        }
        Loader.serve(Integer.parseInt(arguments[0]), new HBaseLoader(connection, arguments[1].split(",")));
    }

    @Override
    public Loader.Writer writer() throws Exception {
        Table table = connection.getTable(TABLE);
        return batch -> {
            List<Put> puts = new ArrayList<>(batch.ticks);
            for (int tick = 0; tick < batch.ticks; tick++) {
                long millis = batch.millis[tick];
                Put put = new Put(Bytes.add(batch.devices[tick], Bytes.toBytes(millis)), millis);
                for (int metric = 0; metric < batch.metrics; metric++) {
                    put.addColumn(FAMILY, qualifiers[metric], Bytes.toBytes(batch.value(tick, metric)));
                }
                puts.add(put);
            }
            table.put(puts);
        };
    }

    @Override
    public void settle() throws Exception {
        try (Admin admin = connection.getAdmin()) {
            // A region that is closed flushes what it has in memory. Admin.flush would be the word for it, but its
            // procedure may wait for ever when it meets a flush that runs already (seen with 2.6.4).
            admin.disableTable(TABLE);
            admin.enableTable(TABLE);
            long asked = System.currentTimeMillis();
            admin.majorCompact(TABLE);
            // That none is running says nothing before it has begun; the age of the oldest file that it has made does.
            while (admin.getLastMajorCompactionTimestamp(TABLE) < asked
                    || admin.getCompactionState(TABLE) != CompactionState.NONE) {
                if (System.currentTimeMillis() > asked + COMPACTED_WITHIN_MS) {
                    throw new IllegalStateException("the major compaction does not end");
                }
                Thread.sleep(250);
            }
            // What was compacted leaves the table's directory two minutes later, or when a region is closed.
            admin.disableTable(TABLE);
            admin.enableTable(TABLE);
        }
    }

    /** Cells, by a scan whose server leaves the values away. */
    @Override
    public long count() throws Exception {
        long cells = 0;
        Scan scan = new Scan().setFilter(new KeyOnlyFilter()).setCacheBlocks(false);
        try (Table table = connection.getTable(TABLE);
                ResultScanner results = table.getScanner(scan)) {
            for (Result result : results) {
                cells += result.size();
            }
        }
        return cells;
    }
}
