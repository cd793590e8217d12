"""A gRPC client that knows only what a server's reflection tells."""

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha import reflection_pb2


class Reflected:
    """Methods and messages as the server's reflection describes them: what grpcurl goes by."""

    def __init__(self, channel):
        self.channel = channel
        self.pool = descriptor_pool.DescriptorPool()
        self.learned = set()
        self.ask = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )

    def learn(self, symbol):
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
        (answer,) = self.ask(iter([request]), timeout=30)
        assert not answer.HasField("error_response"), answer
        files = [descriptor_pb2.FileDescriptorProto.FromString(file) for file in
                 answer.file_descriptor_response.file_descriptor_proto]
        files = [file for file in files if file.name not in self.learned]
        known = {file.name for file in files}
        self.learned |= known
        while files:
            ready = [file for file in files if not known.intersection(file.dependency)]
            assert ready, "reflection names a file that it does not give"
            for file in ready:
                self.pool.Add(file)
                known.remove(file.name)
                files.remove(file)

    def call(self, name, body):
        """The answer to a request in JSON; a list of all for a method that streams them."""
        service, method = name.split("/")
        self.learn(service)
        described = self.pool.FindServiceByName(service).FindMethodByName(method)
        request = json_format.Parse(body, message_factory.GetMessageClass(described.input_type)())
        how = self.channel.unary_stream if described.server_streaming else self.channel.unary_unary
        ask = how(
            f"/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(described.output_type).FromString,
        )
        answer = ask(request, timeout=30)
        if described.server_streaming:
            return [json_format.MessageToDict(message) for message in answer]
        return json_format.MessageToDict(answer)
