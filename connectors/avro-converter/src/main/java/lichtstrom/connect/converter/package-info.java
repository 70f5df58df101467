/** A Kafka Connect converter for records in Avro single-object encoding, as lichtstrom writes them. */
package lichtstrom.connect.converter;
