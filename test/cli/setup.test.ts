import assert from 'node:assert/strict';
import { chmod, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import type { CheckResult } from '../../src/api/system.ts';
import type { Context } from '../../src/cli/context.ts';
import { openJournal } from '../../src/cli/setup/journal.ts';
import { sshPart } from '../../src/cli/setup/names.ts';
import { undoSteps } from '../../src/cli/setup/undo.ts';
import { loadConfig } from '../../src/config/load.ts';
import type { Argv } from '../../src/system/runner.ts';
import { scriptedRunner } from '../support/scripted-runner.ts';
import { tempDir } from '../support/temp-dir.ts';
import { type CliOptions, cli, done, operation, type Script } from './cli.ts';

const check = (change: Partial<CheckResult>): CheckResult => ({
  ...{ id: 'qemu', title: 'QEMU', status: 'failed', lookedFor: 'qemu', detail: 'It is missing.' },
  ...change,
});
const MISSING = check({
  fix: 'sudo apt install qemu-system-x86',
  repair: { argv: ['apt-get', 'install', '-y', 'qemu-system-x86'], asRoot: true },
});
const NO_RIGHTS = check({
  ...{ id: 'privilege', title: 'rights', detail: 'sudo does not let this user.' },
  fix: 'banger doctor --sudoers | sudo install -m 0440 /dev/stdin /etc/sudoers.d/banger',
});

/** A user's home, with programs that answer as a Debian host would; `packages` is a list that the test may change. */
async function home(t: TestContext) {
  const dir = await tempDir(t);
  const packages = join(dir, 'packages');
  await mkdir(join(dir, 'bin'));
  await writeFile(packages, 'ii  base-files\n');
  const program = async (name: string, script: string) => {
    await writeFile(join(dir, 'bin', name), `#!/bin/sh\n${script}\n`);
    await chmod(join(dir, 'bin', name), 0o755);
  };
  await program('dpkg-query', `cat ${packages}`);
  await program('ssh', 'echo "proxycommand banger ssh-proxy --zone vm"');
  const env = {
    HOME: dir,
    SHELL: '/bin/bash',
    PATH: `${join(dir, 'bin')}:${process.env.PATH}`,
    XDG_RUNTIME_DIR: join(dir, 'run'),
  };
  return { dir, packages, env, journal: join(dir, '.local/state/banger/setup.json') };
}

const DNS_STATUS = {
  ...{ zone: 'vm', reverseZones: [], serial: 1, vms: 0, records: [] },
  host: { state: 'listening' as const },
  guests: {},
  resolver: { kind: 'systemd-resolved', reason: 'It runs.', setUp: false },
};

function script(change: { checks?: CheckResult[]; setUp?: boolean } = {}): Script {
  const checks = change.checks ?? [];
  const status = { ...DNS_STATUS, resolver: { ...DNS_STATUS.resolver, setUp: change.setUp ?? false } };
  return {
    doctor: () => ({ checks, summary: {}, ok: checks.length === 0 }),
    dnsStatus: () => status as never,
    planDns: ({ query }) => ({
      summary: 's',
      steps: [{ do: 'run', argv: ['true'] }],
      text: query?.undo ? 'undo\n' : 'systemd-resolved will ask bangerd.\nrun    systemctl restart x\n',
      script: '#!/bin/sh\ntrue\n',
    }),
    setUpDns: () => operation({ kind: 'dns.setup' }),
    events: { op1: [done({ result: { summary: 's', changed: true, proof: null } })] },
    sudoers: () => ({ text: 'someone ALL=(root) NOPASSWD: /usr/sbin/ip\n' }),
  };
}

/** Runs it with programs that take over the terminal noted down in place of being run. */
async function setup(words: string, daemon: Script, env: NodeJS.ProcessEnv, more: CliOptions = {}) {
  const ran: string[] = [];
  const program = (argv: Argv) => {
    ran.push(argv.join(' '));
    return 0;
  };
  return { ...(await cli(`setup ${words}`, daemon, { env, program, ...more })), ran };
}

describe('banger setup', () => {
  it('shows all of it before it does any, and does nothing without a yes', async (t) => {
    const { env, dir, journal } = await home(t);
    const before = await readdir(dir);
    const daemon = script({ checks: [MISSING, NO_RIGHTS] });
    const shown = await setup('--dry-run', daemon, env);
    assert.equal(shown.status, 0);
    assert.match(shown.stdout, /to do this machine:\n +run sudo -n -- apt-get install -y qemu-system-x86/);
    assert.match(shown.stdout, /to do rights:\n +write \/etc\/sudoers\.d\/banger-1000\n +\| someone ALL=/);
    assert.match(
      shown.stdout,
      /to do names below vm:\n +systemd-resolved will ask bangerd\.\n +run {4}systemctl restart x/,
    );
    assert.match(shown.stdout, /ok {4}ssh NAME\.vm: works already/);
    assert.match(shown.stdout, /to do completion of bash:\n +write .*bash-completion\/completions\/banger/);
    const refused = await setup('', daemon, env);
    assert.equal(refused.status, 2);
    assert.match(refused.stderr, /no terminal to ask on.*\n.*banger setup --yes/);
    assert.deepEqual([shown.ran, refused.ran], [[], []]);
    assert.deepEqual(await readdir(dir), before);
    await assert.rejects(stat(journal));
  });

  it('does what is open, once, and takes exactly that back', async (t) => {
    const { env, dir, packages, journal } = await home(t);
    const install = (argv: Argv) => {
      if (argv.includes('apt-get'))
        return writeFile(packages, 'ii  base-files\nii  qemu-system-x86\nii  seabios\n').then(() => 0);
      return 0;
    };
    const ran: string[] = [];
    const program = async (argv: Argv) => {
      ran.push(argv.join(' '));
      return await install(argv);
    };
    const first = await setup('--yes', script({ checks: [MISSING, NO_RIGHTS] }), env, { program });
    assert.equal(first.status, 0, first.stderr);
    assert.match(first.stdout, /Done\. Take it back with: banger setup --undo/);
    const completion = join(dir, '.local/share/bash-completion/completions/banger');
    assert.match(await readFile(completion, 'utf8'), /complete .*banger/);
    assert.match(ran[0] ?? '', /^sudo -n -- apt-get install -y qemu-system-x86$/);
    assert.match(ran[1] ?? '', /^sudo -n -- visudo -c -q -f /);
    assert.match(ran[2] ?? '', /^sudo -n -- install -m 0440 .* \/etc\/sudoers\.d\/banger-1000$/);
    assert.match(ran[3] ?? '', /^sudo -n -- sh .*script$/);

    const again = await setup('--yes', script({ setUp: true }), env);
    assert.match(again.stdout, /Nothing is left to set up/);
    assert.deepEqual(again.ran, []);

    const shown = await setup('--undo --dry-run', script(), env);
    assert.match(shown.stdout, /dpkg --remove qemu-system-x86 seabios/);
    const undone = await setup('--undo --yes', script(), env);
    assert.equal(undone.status, 0, undone.stderr);
    assert.match(undone.stdout, /Everything is as it was/);
    assert.deepEqual(
      undone.ran.filter((line) => !line.includes('script')),
      ['sudo -n -- rm -f /etc/sudoers.d/banger-1000', 'sudo -n -- dpkg --remove qemu-system-x86 seabios'],
    );
    await assert.rejects(stat(join(dir, '.local/share')), 'directories that it made are gone too');
    await assert.rejects(stat(journal));
    assert.match((await setup('--undo', script(), env)).stdout, /Setup has changed nothing here/);
  });

  it('leaves what somebody changed since, and says so', async (t) => {
    const { env, dir } = await home(t);
    const first = await setup('--yes', script({ setUp: true }), env);
    assert.equal(first.status, 0, first.stderr);
    const completion = join(dir, '.local/share/bash-completion/completions/banger');
    await writeFile(completion, '# mine\n');
    const undone = await setup('--undo --yes', script({ setUp: true }), env);
    assert.equal(undone.status, 5);
    assert.match(undone.stderr, /was changed since banger wrote it/);
    assert.equal(await readFile(completion, 'utf8'), '# mine\n');
    await rm(completion);
    assert.equal((await setup('--undo --yes', script(), env)).status, 0, 'what is gone is taken back');
  });

  it('goes on when one part fails, and can be run again for that', async (t) => {
    const { env, dir } = await home(t);
    const failing = await setup('--yes', script({ checks: [MISSING] }), env, {
      program: (argv) => (argv.includes('apt-get') ? 100 : 0),
    });
    assert.equal(failing.status, 1);
    assert.match(failing.stderr, /apt-get install -y qemu-system-x86` ended with 100.*\n.*banger setup/);
    assert.match(failing.stdout, /1 of 6 failed/);
    assert.ok(await stat(join(dir, '.local/share/bash-completion/completions/banger')));
  });

  it('says a journal that it cannot read is not its own', async (t) => {
    const { env, dir, journal } = await home(t);
    await mkdir(join(dir, '.local/state/banger'), { recursive: true });
    for (const text of ['{', '{"version":2,"actions":[]}', '[]']) {
      await writeFile(journal, text);
      const { status, stderr } = await setup('--undo', script(), env);
      assert.equal(status, 1);
      assert.match(stderr, /setup\.json is not what banger setup wrote/);
    }
  });

  it('prints every part as data', async (t) => {
    const { env } = await home(t);
    const { stdout } = await setup('--dry-run --json', script({ setUp: true }), env);
    const parts = JSON.parse(stdout) as { title: string; state: string }[];
    assert.deepEqual(
      parts.map(({ state }) => state),
      ['settled', 'settled', 'settled', 'settled', 'todo', 'settled'],
    );
  });
});

describe('the ssh configuration of a setup', () => {
  it('is taken back to what it was: a file that was there, and one that was not', async (t) => {
    const dir = await tempDir(t);
    const { config } = await loadConfig({ env: { BANGER_HOME: dir }, uid: 1000 });
    const terminal = { self: ['/usr/bin/banger'], env: {}, uid: 1000 };
    const runner = scriptedRunner({ [`${config.programs.ssh} -G banger-setup.vm`]: { stdout: 'user someone\n' } });
    const context = { ctx: { terminal } as unknown as Context, runner };
    const main = join(dir, 'home/.ssh/config');
    for (const before of [undefined, 'Host x\n  User y\n']) {
      if (before !== undefined) {
        await mkdir(join(dir, 'home/.ssh'), { recursive: true });
        await writeFile(main, before);
      }
      const journal = await openJournal(join(dir, 'setup.json'));
      const part = await sshPart({ ...context, journal }, config, main);
      assert.ok(part.plan.some((line) => line.includes('ProxyCommand')));
      await part.apply();
      assert.match(await readFile(main, 'utf8'), /^# Written by .*\nInclude /);
      for (const step of undoSteps({ ...context, journal }, config)) await step.run();
      if (before === undefined) await assert.rejects(stat(join(dir, 'home/.ssh')));
      else assert.equal(await readFile(main, 'utf8'), before);
      await rm(join(dir, 'setup.json'));
    }
  });
});
