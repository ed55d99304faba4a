# For a shell of root on the server's machine: batchsched with the configuration, the data and the secrets of the server's unit.
# Copied to /etc/batchsched; then: . /etc/batchsched/as-server.sh
PATH=/opt/batchsched/bin:$PATH
set -a
BATCHSCHED_CONFIG=/etc/batchsched/batchsched.toml
BATCHSCHED_SERVER_DATA_DIR=/var/lib/batchsched
if [ -r /etc/batchsched/server.env ]; then . /etc/batchsched/server.env; fi
set +a
