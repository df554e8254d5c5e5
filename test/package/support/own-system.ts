/** A system of its own for what dpkg does to one, without systemd, as in a container: laid over another one, which is not touched. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { paced } from '../../support/pace.ts';

/** `$1` is a directory for it, `$2` the room it has, `$3` the system below it, `$4` what it has of a running system, `$5` the script. */
const OVER = `
set -e
mount -t tmpfs -o size="$2" tmpfs "$1/over"
mkdir "$1/over/upper" "$1/over/work" "$1/over/root"
mount -t overlay overlay -o "lowerdir=$3,upperdir=$1/over/upper,workdir=$1/over/work" "$1/over/root"
cd "$1/over/root"
if [ "$4" = running ]; then
  mount -t proc proc proc
  mount -t tmpfs tmpfs run
  mount --bind /dev dev
fi
mkdir -p packages
mount --bind "$1/packages" packages
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=readline \\
  chroot . sh -c "$5" sh < /dev/null
`;

export interface OwnSystemOptions {
  /** directory of the test; what is in `packages` below it is in `/packages` there */
  work: string;
  /** root directory of the system below; that of this host unless told otherwise */
  below?: string;
  /** room for what is changed */
  room?: string;
  /** a `bare` one has no /proc, no devices and nothing in /run */
  state?: 'running' | 'bare';
  /** of dpkg, for each package that is installed */
  dpkgOptions?: string;
}

/** What a script says, errors too, and how it ends. `install VERSION` in it installs a package. */
export async function onOwnSystem(
  script: string,
  options: OwnSystemOptions,
): Promise<{ status: number | null; said: string }> {
  const { work, below = '/', room = '1g', state = 'running', dpkgOptions = '' } = options;
  await mkdir(join(work, 'over'), { recursive: true });
  const functions = `exec 2>&1; install() { dpkg ${dpkgOptions} --force-unsafe-io --no-triggers -i "/packages/banger_\${1}_"*.deb; }\n`;
  const argv = ['--mount', '--pid', '--fork', '--kill-child', 'sh', '-c', OVER, 'sh', work, room, below, state];
  const { status, stdout, stderr, error } = spawnSync('unshare', [...argv, functions + script], {
    encoding: 'utf8',
    timeout: paced(100_000),
  });
  assert.ifError(error);
  return { status, said: stdout + stderr };
}
