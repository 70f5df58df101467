package lichtstrom.connect.converter;

import java.util.ArrayDeque;
import java.util.Deque;
import java.util.List;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.data.SchemaBuilder;
import org.apache.kafka.connect.errors.DataException;

/** Turns an Avro schema into the Connect schema of the same shape. */
final class ConnectSchemas {
    /** Schemas are nested as deep as this at most; reading and writing recurse as deep. */
    private static final int MAX_DEPTH = 100;

    private final Deque<String> open = new ArrayDeque<>();
    private int depth;

    private ConnectSchemas() {
    }

    /** Return the Connect schema of a record; throws DataException if Connect has no such shape. */
    static Schema of(org.apache.avro.Schema avro) {
        if (avro.getType() != org.apache.avro.Schema.Type.RECORD) {
            throw new DataException("it describes a " + avro.getType().getName() + ", not a record");
        }
        return new ConnectSchemas().builder(avro, null).build();
    }

    private SchemaBuilder builder(org.apache.avro.Schema avro, String doc) {
        if (++depth > MAX_DEPTH) {
            throw new DataException("it is nested more than " + MAX_DEPTH + " deep");
        }
        try {
            return plain(avro, doc == null ? avro.getDoc() : doc);
        } finally {
            depth--;
        }
    }

    private SchemaBuilder plain(org.apache.avro.Schema avro, String doc) {
        SchemaBuilder builder = switch (avro.getType()) {
            case RECORD -> record(avro);
            case ARRAY -> SchemaBuilder.array(builder(avro.getElementType(), null).build());
            case MAP -> SchemaBuilder.map(Schema.STRING_SCHEMA, builder(avro.getValueType(), null).build());
            case UNION -> union(avro);
            case ENUM -> SchemaBuilder.string().name(avro.getFullName());
            case STRING -> SchemaBuilder.string();
            case BYTES -> SchemaBuilder.bytes();
            case FIXED -> SchemaBuilder.bytes().name(avro.getFullName());
            case INT -> SchemaBuilder.int32();
            case LONG -> SchemaBuilder.int64();
            case FLOAT -> SchemaBuilder.float32();
            case DOUBLE -> SchemaBuilder.float64();
            case BOOLEAN -> SchemaBuilder.bool();
            case NULL -> throw new DataException("Connect has no type for null alone");
        };
        return doc == null ? builder : builder.doc(doc);
    }

    private SchemaBuilder record(org.apache.avro.Schema avro) {
        String name = avro.getFullName();
        if (open.contains(name)) {
            throw new DataException(name + " contains itself, which Connect has no schema for");
        }
        open.push(name);
        SchemaBuilder builder = SchemaBuilder.struct().name(name);
        for (org.apache.avro.Schema.Field field : avro.getFields()) {
            builder.field(field.name(), builder(field.schema(), field.doc()).build());
        }
        open.pop();
        return builder;
    }

    private SchemaBuilder union(org.apache.avro.Schema avro) {
        List<org.apache.avro.Schema> others = avro.getTypes().stream()
            .filter(branch -> branch.getType() != org.apache.avro.Schema.Type.NULL).toList();
        if (others.size() != 1) {
            throw new DataException("Connect has no type for the union " + avro);
        }
        SchemaBuilder builder = plain(others.get(0), null);
        return others.size() < avro.getTypes().size() ? builder.optional() : builder;
    }
}
