# The programs of Almanac, each an image of its own:
#
#   docker build --target worker  -t almanac-worker  .
#   docker build --target starter -t almanac-starter .
#   docker build --target agent   -t almanac-agent   .
#   docker build --target server  -t almanac-server  .

FROM golang:1.26.8 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o /out/ ./worker ./agent ./starter

# Nothing but what a static Go program asks for: trusted certificates and time zones.
FROM scratch AS base
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /usr/share/zoneinfo /usr/share/zoneinfo
USER 65532:65532
ENV HOME=/tmp

FROM base AS worker
COPY --from=build /out/worker /usr/local/bin/worker
ENTRYPOINT ["/usr/local/bin/worker"]

FROM base AS starter
COPY --from=build /out/starter /usr/local/bin/starter
ENTRYPOINT ["/usr/local/bin/starter"]

# The server's dependencies are a module of their own, and reach no other image.
FROM build AS build-server
WORKDIR /src/dev
RUN go mod download
RUN CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o /out/ ./almanac-server

FROM base AS server
COPY --from=build-server /out/almanac-server /usr/local/bin/almanac-server
ENTRYPOINT ["/usr/local/bin/almanac-server"]

# An agent runs commands, so it needs a system around it. It manages this container, not the machine below: on a
# machine, install the binary.
FROM debian:12.12-slim AS agent
RUN useradd --system --uid 65532 --home-dir /var/lib/almanac --create-home almanac
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/agent /usr/local/bin/agent
USER 65532:65532
VOLUME /var/lib/almanac
ENTRYPOINT ["/usr/local/bin/agent"]
