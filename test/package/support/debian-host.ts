/**
 * A Debian machine of its own with systemd as its first process, for what a package does to one: a banger VM that has what the
 * package depends on and recommends, and nothing of banger. Its emulated processor offers virtualization, so guests run in it
 * under KVM. It is made of the bundle `package-host`, which stays, and of a disk with what is carried in.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type DevHome, openDevHome } from '../../../scripts/dev-home.ts';
import { DEPENDS, RECOMMENDS } from '../../../scripts/package/deb.ts';
import { banger, requireBuild } from '../../../scripts/transcript.ts';
import { readAgentProgram } from '../../../src/bundle/boot/agent-program.ts';
import { buildBundle } from '../../../src/control/bundles/build.ts';
import { createRunner } from '../../../src/system/runner.ts';
import { GIB } from '../../../src/units.ts';
import { paced } from '../../support/pace.ts';

const VM = 'package-host';
/** What a login and a user's systemd need, which the package itself does not. */
const OF_A_DEBIAN_HOST = ['libpam-systemd', 'dbus', 'tcpdump'];
/** Where what is carried in lies in the VM. */
export const CARRIED = '/srv';
const MINUTE = 60_000;

/** See test/proof/rig.ts. */
const NO_VECTORS = '~0x1000020000000000:~0x20';
const BOOT_ARGS = 'mitigations=off';

export interface DebianHostOptions {
  /** the project's `.dev`; what is this host's own lies in `package-host/` below it */
  directory: string;
  /** puts what shall be carried in into a directory */
  load: (tree: string) => Promise<void>;
  tell: (text: string) => void;
}

export class DebianHost {
  readonly #dev: DevHome;
  readonly #options: DebianHostOptions;

  private constructor(options: DebianHostOptions, dev: DevHome) {
    this.#options = options;
    this.#dev = dev;
  }

  static async start(options: DebianHostOptions): Promise<DebianHost> {
    requireBuild();
    const dev = await openDevHome(join(options.directory, VM));
    dev.env.BANGER_VM_BOOT_ARGS = BOOT_ARGS;
    const host = new DebianHost(options, dev);
    try {
      await host.#start();
    } catch (error) {
      await host[Symbol.asyncDispose]();
      throw error;
    }
    return host;
  }

  async #start(): Promise<void> {
    // of a run that was cut off
    await this[Symbol.asyncDispose]();
    const { directory } = this.#dev;
    const bundle = await this.#step('bundle', () => debianBundle(directory));
    const disk = join(directory, 'carried.ext4');
    await this.#step('what is carried in', async () => {
      const tree = join(directory, 'carried');
      rmSync(tree, { recursive: true, force: true });
      mkdirSync(tree);
      await this.#options.load(tree);
      rmSync(disk, { force: true });
      const options = ['-q', '-F', '-t', 'ext4', '-m', '0', '-E', 'root_owner=0:0'];
      execFileSync('mke2fs', [...options, '-d', tree, disk, '4G'], { stdio: ['ignore', 'ignore', 'inherit'] });
      rmSync(tree, { recursive: true });
    });
    await this.#step('a VM of both', async () => {
      const size = ['--vcpus', '2', '--memory', '2560M', '--disk', '8GiB'];
      const work = ['--work-disk-from', disk, '--work-mount', CARRIED];
      await this.#banger(['create', VM, '--image', bundle, ...size, ...work], 2 * MINUTE);
      rmSync(disk);
      await this.#banger(['start', VM], 5 * MINUTE);
      // for services too, among them the managers of users: those started from now on
      await this.shell(`systemctl set-environment OPENSSL_ia32cap='${NO_VECTORS}'`);
    });
  }

  /**
   * Runs a script of root's in a shell that stops at the first command that fails.
   * @returns what was printed, errors too
   */
  async shell(script: string, limitMs = 4 * MINUTE): Promise<string> {
    const before = `cd /; export OPENSSL_ia32cap='${NO_VECTORS}' DEBIAN_FRONTEND=readline`;
    const whole = `cat > /run/root-script <<'ROOT'\n${before}\n${script}\nROOT
      sh -e /run/root-script < /dev/null 2>&1 || echo "ended with $?"`;
    return await this.#banger(['exec', '--no-stdin', VM, '--', 'sh', '-c', whole], limitMs);
  }

  /** The same for a user, with the environment of a login. */
  async as(user: string, script: string, limitMs = 4 * MINUTE): Promise<string> {
    return await this.shell(
      `cat > /run/script <<'END'\nset -e\n${script}\nEND
      uid=$(id -u ${user})
      setpriv --reuid ${user} --regid ${user} --init-groups env -i HOME=/home/${user} USER=${user} LC_ALL=C.UTF-8 \\
        PATH=/usr/local/bin:/usr/bin:/bin XDG_RUNTIME_DIR=/run/user/$uid OPENSSL_ia32cap="$OPENSSL_ia32cap" sh /run/script < /dev/null`,
      limitMs,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const names = await this.#banger(['ls', '--names'], MINUTE).catch(() => '');
    if (names.split('\n').includes(VM)) await this.#banger(['rm', '--force', '--now', VM], 2 * MINUTE).catch(() => '');
    await this.#banger(['daemon', 'stop'], MINUTE).catch(() => '');
  }

  async #banger(args: readonly string[], limitMs: number): Promise<string> {
    return await banger(args, { env: this.#dev.env, limitMs: paced(limitMs), output: 'silent' });
  }

  async #step<T>(what: string, act: () => Promise<T>): Promise<T> {
    const began = performance.now();
    const result = await act();
    this.#options.tell(`${what}: ${Math.round((performance.now() - began) / 1000)} s`);
    return result;
  }
}

/** Builds it unless it is there and nothing it is made from has changed; returns its directory. */
async function debianBundle(directory: string): Promise<string> {
  const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
  const names = [...DEPENDS, ...RECOMMENDS].map((dependency) => dependency.replace(/ .*/, ''));
  const { bundle } = await buildBundle(
    {
      runner: createRunner(env),
      programs: { mmdebstrap: 'mmdebstrap', mke2fs: 'mke2fs', xz: 'xz', lz4: 'lz4' },
      cacheDir: join(directory, 'cache'),
      env,
      uid: process.getuid?.() ?? 0,
      helpers: {},
      agent: await readAgentProgram(),
      now: () => new Date(),
    },
    {
      suite: 'bookworm',
      name: VM,
      output: join(directory, VM),
      packages: [...names, ...OF_A_DEBIAN_HOST],
      sizeBytes: 4 * GIB,
    },
  );
  return bundle.dir;
}
