/**
 * How often the known fault of the emulated processor is met: boots guests in the rig one after another, lets each run
 * programs for a while, and counts how they ended. Usage: node test/proof/boots.ts BOOTS
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hangSeen, watchForHangs } from './hang-trace.ts';
import { showsKnownFault } from './known-fault.ts';

/** The fault needs user programs that are interrupted. */
const PROGRAMS = 1000;
const END = 'all programs have run';
const SCRIPT = `i=0; while [ $i -lt ${PROGRAMS} ]; do /bin/busybox true; i=$((i+1)); done; echo ${END}; exec /bin/reboot -f`;
const COMMAND_LINE = `console=ttyS0 reboot=k panic=-1 rdinit=/bin/sh -- -c "${SCRIPT}"`;
const MEMORY_MIB = 192;
/** As fcqemu's. */
const MACHINE = 'microvm,acpi=on,pit=on,pic=on,rtc=on,isa-serial=on,x-option-roms=off,auto-kernel-cmdline=off';
/** Of one guest; on a busy machine it takes a minute. */
const LIMIT_MS = 600_000;
const LOOK_MS = 1000;

type End = 'whole' | 'panic' | 'hang' | 'late' | 'other';

const boots = Number(process.argv[2]);
const bundle = process.env.BANGER_TEST_BUNDLE;
if (!(boots > 0) || bundle === undefined) {
  console.error('usage: BANGER_TEST_BUNDLE=DIRECTORY node test/proof/boots.ts BOOTS');
  process.exitCode = 2;
} else {
  const directory = mkdtempSync(join(tmpdir(), 'boots-'));
  try {
    await count(boots, program(bundle, directory));
  } finally {
    rmSync(directory, { recursive: true });
  }
}

async function count(boots: number, [file, args]: [string, string[]]): Promise<void> {
  watchForHangs();
  const ends: End[] = [];
  for (let n = 1; n <= boots; n++) {
    const began = performance.now();
    const { end, text } = await boot(spawn(file, args, { stdio: ['ignore', 'pipe', 'ignore'] }));
    ends.push(end);
    console.log(`${n}: ${end}, ${((performance.now() - began) / 1000).toFixed(1)} s`);
    if (end !== 'whole') console.log(text.slice(-4000));
  }
  const sums = [...new Set(ends)].map((end) => `${ends.filter((each) => each === end).length} ${end}`);
  console.log(`== ${file}: ${boots} boots: ${sums.join(', ')}`);
  // then nothing was counted
  if (!ends.includes('whole')) process.exitCode = 1;
}

async function boot(child: ChildProcess): Promise<{ end: End; text: string }> {
  const { promise: ended, resolve } = Promise.withResolvers<void>();
  let text = '';
  let forced: End | undefined;
  const force = (end: End) => {
    forced = end;
    child.kill('SIGKILL');
  };
  child.stdout?.on('data', (bytes: Buffer) => {
    text += bytes.toString('latin1');
  });
  child.once('close', () => resolve());
  child.once('error', (error) => {
    text += error.message;
    resolve();
  });
  const limit = setTimeout(() => force('late'), LIMIT_MS);
  const look = setInterval(() => hangSeen() !== undefined && force('hang'), LOOK_MS);
  await ended;
  clearTimeout(limit);
  clearInterval(look);
  if (showsKnownFault(text)) return { end: 'panic', text };
  return { end: forced ?? (text.includes(`${END}\r\n`) ? 'whole' : 'other'), text };
}

/** What boots the guest: Firecracker where one is named, QEMU otherwise. */
function program(bundle: string, directory: string): [string, string[]] {
  const [kernel, initrd] = [join(bundle, 'vmlinux'), join(bundle, 'initrd.img')];
  const firecracker = process.env.FIRECRACKER_BIN;
  if (firecracker === undefined) {
    return [
      'qemu-system-x86_64',
      [
        ...['-accel', 'kvm', '-cpu', 'host', '-M', MACHINE, '-m', `${MEMORY_MIB}M`],
        ...['-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none', '-serial', 'stdio', '-device', 'i8042'],
        ...['-kernel', kernel, '-initrd', initrd, '-append', COMMAND_LINE],
      ],
    ];
  }
  const config = join(directory, 'machine.json');
  writeFileSync(
    config,
    JSON.stringify({
      'boot-source': { kernel_image_path: kernel, initrd_path: initrd, boot_args: COMMAND_LINE },
      'machine-config': { vcpu_count: 1, mem_size_mib: MEMORY_MIB },
      drives: [],
    }),
  );
  return [firecracker, ['--no-api', '--config-file', config]];
}
