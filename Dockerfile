# syntax=docker/dockerfile:1
# A server or an agent, and nothing else:
#
#	docker build -t adit .
#	docker run -p 8080:8080 -v adit:/data adit
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=
RUN packaging/build /out/adit "$VERSION" && mkdir -m 700 /out/data

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/adit /adit
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
ENV ADIT_DATA_DIR=/data
VOLUME /data
EXPOSE 8080
ENTRYPOINT ["/adit"]
CMD ["server"]
