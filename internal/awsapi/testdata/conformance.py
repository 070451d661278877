"""Asks botocore what it would send and what it reads, for the tests of awsapi.

usage: conformance.py requests|responses|endpoints SHARD SHARDS EVERY INPUTS [DIR]

It prints one JSON object a line. Of every service whose number is SHARD modulo
SHARDS it takes the operations whose checksum is 0 modulo EVERY, with INPUTS
different values each. A time is {"$time": ...}, bytes are {"$bytes": base64}.
endpoints reads DIR/*/endpoint-tests-1.json.
"""

import base64
import datetime
import json
import math
import os
import sys
import zlib
from xml.sax.saxutils import escape

import botocore.model
import botocore.parsers
import botocore.serialize
import botocore.session
from botocore.awsrequest import HeadersDict

TIME = datetime.datetime(2020, 2, 3, 4, 5, 6, tzinfo=datetime.timezone.utc)
PREFERRED = ["json", "rest-json", "rest-xml", "smithy-rpc-v2-cbor", "query", "ec2"]


def plain(v):
    if isinstance(v, dict):
        return {str(k): plain(x) for k, x in v.items()}
    if isinstance(v, (list, tuple)):
        return [plain(x) for x in v]
    if isinstance(v, (bytes, bytearray)):
        return {"$bytes": base64.b64encode(bytes(v)).decode()}
    if isinstance(v, datetime.datetime):
        return {"$time": v.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
    if hasattr(v, "read"):
        return {"$bytes": base64.b64encode(v.read()).decode()}
    if isinstance(v, float) and not math.isfinite(v):
        return str(v)
    if hasattr(v, "tag"):
        return "an element"
    return v


class Cut(Exception):
    """A shape that holds itself, where it must be given."""


class Maker:
    """Makes a value of a shape; v chooses among enums, members of unions and lengths."""

    def __init__(self, v, required_only, response):
        self.v, self.required_only, self.response = v, required_only, response
        self.left = 300

    def value(self, shape, stack=(), name="", in_header=False):
        self.left -= 1
        t = shape.type_name
        if t == "structure":
            return self.structure(shape, stack)
        if t == "list":
            n = 1 if self.left < 0 else 1 + self.v % 2
            try:
                return [self.value(shape.member, stack, "", in_header) for _ in range(n)]
            except Cut:
                return []
        if t == "map":
            keys = list(shape.key.enum or []) or ["k 1", "k2"]
            out = {}
            for k in keys[: 1 + self.v % 2]:
                try:
                    out[k] = self.value(shape.value, stack, "", in_header)
                except Cut:
                    pass
            return out
        if t in ("string", "character"):
            if shape.enum:
                return shape.enum[self.v % len(shape.enum)]
            if in_header or shape.serialization.get("location") in ("header", "uri"):
                return "text-%d" % self.v
            return "a b/ü&<>\"'+~%d" % self.v
        if t == "timestamp":
            return TIME
        if t == "blob":
            return b"\x00\xffab%d" % self.v
        if t == "boolean":
            return self.v % 2 == 0
        if t == "integer":
            return 7 + self.v
        if t == "long":
            return 12345678901 + self.v
        if t in ("float", "double"):
            return 1.5 + self.v
        raise ValueError(t)

    def structure(self, shape, stack):
        if getattr(shape, "is_document_type", False):
            return {"d": [1, 2.5, True, {"x": "y"}]}
        if getattr(shape, "is_tagged_union", False) and shape.members:
            names = list(shape.members)
            for i in range(len(names)):
                name = names[(self.v + i) % len(names)]
                try:
                    x = self.member(shape, name, stack)
                except Cut:
                    continue
                if x is not None:
                    return {name: x}
            raise Cut
        out = {}
        for name, m in shape.members.items():
            needed = name in shape.required_members or m.metadata.get("idempotencyToken")
            location = m.serialization.get("location")
            if not self.response and (location == "uri" or m.metadata.get("hostLabel")):
                needed = True
            if (self.required_only or self.left < 0 or len(stack) > 12) and not needed:
                continue
            try:
                x = self.member(shape, name, stack)
            except Cut:
                x = None
            if x is not None:
                out[name] = x
            elif name in shape.required_members and not self.response:
                raise Cut
        return out

    def member(self, shape, name, stack):
        m = shape.members[name]
        if m.name in stack and m.type_name in ("structure", "list", "map"):
            return [] if m.type_name == "list" and name in shape.required_members else None
        if m.serialization.get("eventstream") or getattr(m, "is_event_stream", False):
            return None
        if m.serialization.get("jsonvalue"):
            return {"a": [1, "b"]} if m.serialization.get("location") == "header" else '{"a": 1}'
        if m.metadata.get("hostLabel"):
            return "host-%d" % self.v
        header = m.serialization.get("location") in ("header", "headers")
        if m.serialization.get("location") == "uri" and m.type_name == "string" and not m.enum:
            return "a b/ü+%d" % self.v
        if m.serialization.get("location") == "statusCode":
            return 200
        if m.serialization.get("location") == "headers":
            return {"k1": "v 1"}
        return self.value(m, stack + (m.name,) if m.type_name in ("structure", "list", "map") else stack, name, header)


def services(session, shard, shards):
    for i, name in enumerate(sorted(session.get_available_services())):
        if i % shards == shard:
            yield name, botocore.model.ServiceModel(session.get_component("data_loader").load_service_model(name, "service-2"), name)


def operations(session, shard, shards, every):
    for name, model in services(session, shard, shards):
        offered = model.metadata.get("protocols") or [model.metadata["protocol"]]
        protocol = next(p for p in PREFERRED if p in offered)
        for op in sorted(model.operation_names):
            if zlib.crc32((name + op).encode()) % every == 0:
                yield name, model, protocol, model.operation_model(op)


def requests(session, shard, shards, every, inputs):
    for service, model, protocol, op in operations(session, shard, shards, every):
        if op.has_event_stream_input or op.has_event_stream_output:
            continue
        serializer = botocore.serialize.create_serializer(protocol, False)
        for v in range(inputs):
            params = {}
            if op.input_shape:
                try:
                    params = Maker(v, v == inputs - 1 and inputs > 1, False).structure(op.input_shape, (op.input_shape.name,))
                except Cut:
                    continue
            sent = serializer.serialize_to_request(params, op)
            body = sent["body"]
            if isinstance(body, dict):
                body = {"form": body}
            elif isinstance(body, (bytes, bytearray)):
                body = {"bytes": base64.b64encode(body).decode()}
            elif isinstance(body, str):
                body = {"bytes": base64.b64encode(body.encode()).decode()}
            else:
                body = {"bytes": ""}
            query = sent["query_string"]
            pairs = []
            for k, x in query.items() if isinstance(query, dict) else (query or []):
                for one in x if isinstance(x, list) else [x]:
                    pairs.append([k, str(one)])
            yield {
                "service": service, "operation": op.name if op.name in model._service_description["operations"] else op.wire_name,
                "input": plain(params), "protocol": protocol, "method": sent["method"], "path": sent["url_path"], "query": pairs,
                "headers": {k.lower(): str(x) for k, x in sent["headers"].items()}, "body": body, "host": sent.get("host_prefix") or "",
            }


class Writer:
    """Writes answers as services do, from the model alone."""

    def __init__(self, protocol, op):
        self.protocol, self.op = protocol, op

    def timestamp(self, shape, fallback):
        f = shape.serialization.get("timestampFormat", fallback)
        if f == "iso8601":
            return TIME.strftime("%Y-%m-%dT%H:%M:%SZ")
        if f == "rfc822":
            return TIME.strftime("%a, %d %b %Y %H:%M:%S GMT")
        return int(TIME.timestamp())

    def json(self, shape, v):
        t = shape.type_name
        if t == "structure":
            if getattr(shape, "is_document_type", False):
                return v
            return {m.serialization.get("name", n): self.json(m, v[n]) for n, m in shape.members.items() if n in v and not m.serialization.get("location")}
        if t == "list":
            return [self.json(shape.member, x) for x in v]
        if t == "map":
            return {k: self.json(shape.value, x) for k, x in v.items()}
        if t == "timestamp":
            return self.timestamp(shape, "unixtimestamp")
        if t == "blob":
            return base64.b64encode(v).decode()
        return v

    def scalar(self, shape, v, fallback="iso8601"):
        if shape.type_name == "timestamp":
            return str(self.timestamp(shape, fallback))
        if shape.type_name == "blob":
            return base64.b64encode(v).decode()
        if shape.type_name == "boolean":
            return "true" if v else "false"
        return str(v)

    def xml(self, shape, v, name):
        t = shape.type_name
        if t == "structure":
            attrs, inner = "", ""
            for n, m in shape.members.items():
                if n not in v or m.serialization.get("location"):
                    continue
                tag = m.serialization.get("name", n)
                if m.serialization.get("xmlAttribute"):
                    attrs += ' xmlns:%s="http://x" %s="%s"' % (tag.split(":")[0], tag, escape(v[n]))
                    continue
                inner += self.xml(m, v[n], tag)
            return "<%s%s>%s</%s>" % (name, attrs, inner, name)
        if t == "list":
            if shape.serialization.get("flattened"):
                return "".join(self.xml(shape.member, x, shape.member.serialization.get("name", name)) for x in v)
            item = shape.member.serialization.get("name", "item" if self.protocol == "ec2" else "member")
            return "<%s>%s</%s>" % (name, "".join(self.xml(shape.member, x, item) for x in v), name)
        if t == "map":
            key, value = shape.key.serialization.get("name", "key"), shape.value.serialization.get("name", "value")
            flat = shape.serialization.get("flattened")
            entries = "".join("<%s><%s>%s</%s>%s</%s>" % (e, key, escape(k), key, self.xml(shape.value, x, value), e) for k, x in v.items() for e in [name if flat else "entry"])
            return entries if flat else "<%s>%s</%s>" % (name, entries, name)
        return "<%s>%s</%s>" % (name, escape(self.scalar(shape, v)), name)

    def answer(self, v):
        shape, headers = self.op.output_shape, {}
        if self.protocol == "json":
            return headers, json.dumps(self.json(shape, v)).encode()
        if self.protocol == "smithy-rpc-v2-cbor":
            body = bytearray()
            s = botocore.serialize.create_serializer(self.protocol, False)
            s._serialize_data_item(body, v, shape)
            return {"smithy-protocol": "rpc-v2-cbor", "content-type": "application/cbor"}, bytes(body)
        if self.protocol == "ec2":
            return headers, ("<%sResponse xmlns=\"http://x\"><requestId>r</requestId>%s</%sResponse>" % (self.op.name, self.xml(shape, v, "X")[3:-4], self.op.name)).encode()
        if self.protocol == "query":
            inner = self.xml(shape, v, self.op.name + "Result")
            return headers, ("<%sResponse xmlns=\"http://x\">%s<ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></%sResponse>" % (self.op.name, inner, self.op.name)).encode()
        payload = shape.serialization.get("payload")
        for n, m in shape.members.items():
            if n not in v:
                continue
            where = m.serialization.get("location")
            name = m.serialization.get("name", n)
            if where == "header":
                if m.serialization.get("jsonvalue"):
                    headers[name] = base64.b64encode(json.dumps(v[n]).encode()).decode()
                elif m.type_name == "list":
                    headers[name] = ", ".join(self.scalar(m.member, x, "rfc822") for x in v[n])
                else:
                    headers[name] = self.scalar(m, v[n], "rfc822")
            elif where == "headers":
                for k, x in v[n].items():
                    headers[name + k] = x
        if payload:
            m = shape.members[payload]
            if payload not in v:
                return headers, b""
            if m.type_name == "blob":
                return headers, v[payload]
            if m.type_name == "string":
                return headers, v[payload].encode()
            if self.protocol == "rest-json":
                return headers, json.dumps(self.json(m, v[payload])).encode()
            return headers, self.xml(m, v[payload], m.serialization.get("name", m.name)).encode()
        if self.protocol == "rest-json":
            return headers, json.dumps(self.json(shape, v)).encode()
        return headers, self.xml(shape, v, shape.serialization.get("name", shape.name)).encode()


def responses(session, shard, shards, every, inputs):
    for service, model, protocol, op in operations(session, shard, shards, every):
        if op.has_event_stream_input or op.has_event_stream_output or not op.output_shape:
            continue
        parser = botocore.parsers.create_parser(protocol)
        for i in range(inputs):
            v = Maker(i, False, True).structure(op.output_shape, (op.output_shape.name,)) or {}
            payload = op.output_shape.serialization.get("payload")
            if payload in v and op.output_shape.members[payload].type_name == "blob":
                v[payload] = b"plain"  # botocore reads such a body as UTF-8
            headers, body = Writer(protocol, op).answer(v)
            parsed = parser.parse({"status_code": 200, "headers": HeadersDict(headers), "body": body, "context": {}}, op.output_shape)
            parsed.pop("ResponseMetadata", None)
            yield {
                "service": service, "operation": op.name if op.name in model._service_description["operations"] else op.wire_name,
                "protocol": protocol, "headers": headers, "body": {"bytes": base64.b64encode(body).decode()}, "parsed": plain(parsed),
            }


def endpoints(directory, shard, shards):
    for i, service in enumerate(sorted(os.listdir(directory))):
        file = os.path.join(directory, service, "endpoint-tests-1.json")
        if i % shards == shard and os.path.exists(file):
            with open(file) as f:
                for case in json.load(f)["testCases"]:
                    yield {"service": service, "params": case.get("params", {}), "expect": case["expect"], "about": case.get("documentation", "")}


def main():
    what, shard, shards, every, inputs = sys.argv[1], *map(int, sys.argv[2:6])
    session = botocore.session.get_session()
    session.set_config_variable("data_path", "")
    if what == "requests":
        lines = requests(session, shard, shards, every, inputs)
    elif what == "responses":
        lines = responses(session, shard, shards, every, inputs)
    else:
        lines = endpoints(sys.argv[6], shard, shards)
    for line in lines:
        print(json.dumps(line))


main()
