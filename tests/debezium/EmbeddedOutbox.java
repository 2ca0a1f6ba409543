import com.fasterxml.jackson.databind.ObjectMapper;
import io.debezium.embedded.Connect;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.RecordChangeEvent;
import io.debezium.engine.format.ChangeEventFormat;
import java.io.Reader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.connect.header.Header;
import org.apache.kafka.connect.source.SourceRecord;
import org.apache.kafka.connect.storage.Converter;
import org.apache.kafka.connect.storage.HeaderConverter;
import org.apache.kafka.connect.storage.SimpleHeaderConverter;

/**
 * Runs a Debezium connector without Kafka. Each record becomes a line of JSON on stdout, as the bytes that Kafka Connect
 * would write: it uses the converters of the connector's own configuration. Logs go to stderr.
 *
 * <p>Argument: the connector's configuration as a properties file.
 */
public final class EmbeddedOutbox {
    private static final ObjectMapper JSON = new ObjectMapper();

    private EmbeddedOutbox() {}

    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        try (Reader reader = Files.newBufferedReader(Path.of(arguments[0]), StandardCharsets.UTF_8)) {
            properties.load(reader);
        }
        Converter keys = converter(properties.getProperty("key.converter"), true);
        Converter values = converter(properties.getProperty("value.converter"), false);
        HeaderConverter headers = new SimpleHeaderConverter(); // Kafka Connect's default
        try (DebeziumEngine<RecordChangeEvent<SourceRecord>> engine =
                DebeziumEngine.create(ChangeEventFormat.of(Connect.class))
                        .using(properties)
                        .using((done, message, error) -> {
                            if (!done) {
                                System.err.println("the engine has failed: " + message);
                                if (error != null) {
                                    error.printStackTrace();
                                }
                                Runtime.getRuntime().halt(1);
                            }
                        })
                        .notifying(event -> print(event.record(), keys, values, headers))
                        .build()) {
            engine.run();
        }
    }

    private static Converter converter(String name, boolean isKey) throws Exception {
        Converter converter = (Converter) Class.forName(name).getDeclaredConstructor().newInstance();
        converter.configure(Map.of(), isKey);
        return converter;
    }

    private static void print(SourceRecord record, Converter keys, Converter values, HeaderConverter converter) {
        String topic = record.topic();
        List<Object> headers = new ArrayList<>();
        for (Header header : record.headers()) {
            byte[] value = converter.fromConnectHeader(topic, header.key(), header.schema(), header.value());
            headers.add(Arrays.asList(header.key(), base64(value)));
        }
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("topic", topic);
        line.put("key", base64(keys.fromConnectData(topic, record.keySchema(), record.key())));
        line.put("value", base64(values.fromConnectData(topic, record.valueSchema(), record.value())));
        line.put("headers", headers);
        try {
            System.out.println(JSON.writeValueAsString(line));
        } catch (Exception error) {
            throw new IllegalStateException(error);
        }
    }

    private static String base64(byte[] bytes) {
        return bytes == null ? null : Base64.getEncoder().encodeToString(bytes);
    }
}
