// What both loaders have in common: a loopback port, a thread a connection, frames in and out.
//
// A loader is a client of a store that is spoken to by its own Java library. tidemark-compare makes the readings, cuts
// them into batches and takes the time; a loader turns a batch into the store's own calls and answers when the store has.
// The frames are drawn in src/loader.rs, which is the other side of them.

import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.ByteBuffer;

/** Serves a store to tidemark-compare until it is killed. */
final class Loader {
    private static final int FRAME_BYTES_MAX = 64 << 20;

    /** A store as seen by its loader. */
    interface Store {
        /** For one connection, used by one thread. */
        Writer writer() throws Exception;

        /** Returns when all that was written lies in the files in which it stays. */
        void settle() throws Exception;

        /** Samples that the store has, counted there. */
        long count() throws Exception;
    }

    /** Writes batches. */
    interface Writer {
        /** Returns when the store has answered for all of the batch; an exception if it has not taken all. */
        void write(Batch batch) throws Exception;
    }

    /** Ticks as they came. */
    static final class Batch {
        final int ticks;
        final int metrics;
        final byte[][] devices;
        /** Milliseconds since 1970. */
        final long[] millis;
        /** Of all ticks, one after the other. */
        final double[] values;

        Batch(ByteBuffer frame) {
            metrics = frame.getShort();
            ticks = frame.getInt();
            devices = new byte[ticks][];
            millis = new long[ticks];
            values = new double[ticks * metrics];
            for (int tick = 0; tick < ticks; tick++) {
                devices[tick] = new byte[frame.get()];
                frame.get(devices[tick]);
                millis[tick] = frame.getLong() / 1_000;
                for (int metric = 0; metric < metrics; metric++) {
                    values[tick * metrics + metric] = frame.getDouble();
                }
            }
        }

        double value(int tick, int metric) {
            return values[tick * metrics + metric];
        }
    }

    /** Listens from now on, which tells that the store is ready. */
    static void serve(int port, Store store) throws Exception {
        try (ServerSocket listener = new ServerSocket(port, 64, InetAddress.getLoopbackAddress())) {
            while (true) {
                Socket socket = listener.accept();
                new Thread(() -> converse(socket, store)).start();
            }
        }
    }

    private static void converse(Socket socket, Store store) {
        try (socket) {
            socket.setTcpNoDelay(true);
            DataInputStream in = new DataInputStream(socket.getInputStream());
            DataOutputStream out = new DataOutputStream(socket.getOutputStream());
            Writer writer = null;
            while (true) {
                int kind = in.read();
                if (kind < 0) {
                    return;
                }
                int length = in.readInt();
                if (length < 0 || length > FRAME_BYTES_MAX) {
                    throw new IllegalArgumentException("a frame of " + length + " bytes");
                }
                byte[] body = new byte[length];
                in.readFully(body);
                byte[] answer;
                int status = 0;
                long began = System.nanoTime();
                try {
                    long number = 0;
                    switch (kind) {
                        case 'W':
                            // Made with the first batch, so that a connection that only asks has none.
                            writer = writer == null ? store.writer() : writer;
                            writer.write(new Batch(ByteBuffer.wrap(body)));
                            break;
                        case 'S':
                            store.settle();
                            System.err.printf("at rest after %.1f s%n", (System.nanoTime() - began) / 1e9);
                            break;
                        case 'C':
                            number = store.count();
                            System.err.printf("counted %d in %.1f s%n", number, (System.nanoTime() - began) / 1e9);
                            break;
                        default:
                            throw new IllegalArgumentException("there is no question " + kind);
                    }
                    answer = ByteBuffer.allocate(Long.BYTES).putLong(number).array();
                } catch (Exception failure) {
                    failure.printStackTrace();
                    status = 1;
                    answer = failure.toString().getBytes("UTF-8");
                }
                ByteBuffer frame = ByteBuffer.allocate(1 + Integer.BYTES + answer.length);
                out.write(frame.put((byte) status).putInt(answer.length).put(answer).array());
            }
        } catch (Exception failure) {
            // The other side sees its connection closed; this is for whoever reads the log.
            failure.printStackTrace();
        }
    }
}
