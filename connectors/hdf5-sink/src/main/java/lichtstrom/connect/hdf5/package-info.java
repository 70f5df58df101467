/** Kafka Connect's side of the HDF5 sink: records go to a Python writer, nothing is written here. */
package lichtstrom.connect.hdf5;
