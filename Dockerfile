# bearerd on glibc and the CA roots, without a shell, for a read-only root file system.
#
#     docker build -t bearerd .                                        # compiles
#     docker build -t bearerd --build-arg PROFILED=yes .               # twice, and measures a run under load between
#     docker build -t bearerd --build-arg BUILD=prebuilt --build-arg BINARY=target/release/bearerd .
#
# The configuration is /etc/bearerd/proxy.toml, and a state may be in /var/lib/bearerd: docs/deploy/container.md.
# A build is reproducible with SOURCE_DATE_EPOCH, here and in the environment of the builder.

ARG RUST_IMAGE=docker.io/library/rust:1.95.0-bookworm@sha256:6258907abe69656e41cd992e0b705cdcfabcbbe3db374f92ed2d47121282d4a1
ARG RUN_IMAGE=gcr.io/distroless/cc-debian13:nonroot@sha256:54df941ed0d06a1bd95ef5e0ce391fd8d9f94b64782dc9a60062727849ee3f97
# `source`, or `prebuilt` with BINARY. The buildah of Debian 12 must be told the default too: --build-arg BUILD=source.
ARG BUILD=source

# Everything that bearerd depends on: a layer of its own, which changes with the manifests only.
FROM ${RUST_IMAGE} AS dependencies
WORKDIR /src
COPY Cargo.toml Cargo.lock rust-toolchain.toml ./
COPY .cargo .cargo
COPY testkit/Cargo.toml testkit/
RUN mkdir -p src testkit/src benches/hot_path tests/it tests/fuzz tests/load \
    && touch src/lib.rs testkit/src/lib.rs \
    && for program in src/main.rs benches/hot_path/main.rs tests/it/main.rs tests/fuzz/main.rs tests/load/main.rs; do \
        echo 'fn main() {}' >"$program"; \
    done \
    && cargo build --release --locked --bin bearerd \
    && rm -rf src testkit/src

FROM dependencies AS source
ARG PROFILED=no
ARG BEARERD_COMMIT
ARG SOURCE_DATE_EPOCH
COPY benches benches
COPY proxy.toml ./
COPY src src
COPY templates templates
COPY testkit testkit
COPY docs/deploy docs/deploy
# A time after that of the empty sources above, by which cargo tells what has changed.
RUN find src testkit/src templates -type f -exec touch {} + \
    && if [ "${PROFILED}" = yes ]; then \
        benches/profiled && mv target/profiled/release/bearerd /bearerd; \
    else \
        cargo build --release --locked --bin bearerd && mv target/release/bearerd /bearerd; \
    fi

FROM scratch AS prebuilt
ARG BINARY=target/release/bearerd
COPY ${BINARY} /bearerd

# hadolint ignore=DL3006
FROM ${BUILD} AS binary

FROM ${RUN_IMAGE}
ARG VERSION
ARG BEARERD_COMMIT
ARG CREATED
LABEL org.opencontainers.image.title="bearerd" \
    org.opencontainers.image.description="Authenticating reverse proxy that adds OAuth 2.0 bearer tokens to requests" \
    org.opencontainers.image.licenses="MIT OR Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${BEARERD_COMMIT}" \
    org.opencontainers.image.created="${CREATED}"
COPY LICENSE-APACHE LICENSE-MIT /usr/share/doc/bearerd/
# An empty folder, whose owner and mode a new volume takes over.
COPY --chown=65532:65532 --chmod=0700 deploy/container/lib /var/lib
COPY --from=binary --chmod=0755 /bearerd /usr/bin/bearerd
USER 65532:65532
WORKDIR /
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=4s --start-period=10s --retries=3 CMD ["/usr/bin/bearerd", "health"]
ENTRYPOINT ["/usr/bin/bearerd"]
CMD ["run"]
