/** Shell functions of `/init` for a script that a VM was given for its first boot, in images without cloud-init. */

/** Runs it, and writes down how it ended: that file is why it does not run again. */
const ONCE = `PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/banger/bin
HOME=/root
export PATH HOME
cd /
/run/banger/user-data
status=$?
mkdir -p /var/lib/banger
echo "status=$status" > /var/lib/banger/user-data.status.new
sync
mv /var/lib/banger/user-data.status.new /var/lib/banger/user-data.status
echo "banger-init: user data ended with status $status" > /dev/console
`;

const UNIT = `# Made by banger's initrd at each boot until it has run, gone with it: the script of --user-data.
[Unit]
Description=User data
After=network.target
[Service]
ExecStart=/bin/sh /run/banger/user-data-once
StandardOutput=journal+console
StandardError=journal+console
[Install]
WantedBy=multi-user.target
`;

/** Needs `is_systemd` and `$here` of the script it becomes part of. */
export const USER_DATA_FUNCTIONS = `run_user_data() {
  [ -s "$here/seed/user-data" ] && [ ! -e /var/lib/banger/user-data.status ] || return 0
  mkdir -p /run/banger
  cp "$here/seed/user-data" /run/banger/user-data
  chmod 0700 /run/banger/user-data
  cat > /run/banger/user-data-once <<'ONCE'
${ONCE}ONCE
  if is_systemd; then
    mkdir -p /run/systemd/system/multi-user.target.wants
    cat > /run/systemd/system/banger-user-data.service <<'UNIT'
${UNIT}UNIT
    ln -s ../banger-user-data.service /run/systemd/system/multi-user.target.wants/banger-user-data.service
    return 0
  fi
  if [ -x /run/banger/busybox ]; then set -- /run/banger/busybox sh; else set -- /bin/sh; fi
  "$@" /run/banger/user-data-once < /dev/null > /dev/console 2>&1 &
}
`;
