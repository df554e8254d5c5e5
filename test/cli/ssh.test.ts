import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { describe, it } from 'node:test';
import { vmOfPath } from '../../src/cli/commands/vm/cp.ts';
import { runInteractive } from '../../src/cli/shared/interactive.ts';
import { sshArguments } from '../../src/cli/shared/ssh-options.ts';
import type { Argv } from '../../src/system/runner.ts';
import { type CliOptions, cli, operation } from './cli.ts';

const access = (name: string) => ({
  user: 'root',
  address: '172.30.0.2',
  port: 22,
  identityFile: '/state/my keys/id 100%',
  knownHostsFile: `/state/${name}/known_hosts`,
  hostKeyAlias: `${name}.banger`,
  term: null,
});
const script = { sshAccess: ({ params }: { params: { name: string } }) => access(params.name) };
const noSsh = spawnSync('ssh', ['-V']).error ? 'ssh is not installed here' : false;

describe('ssh', () => {
  it('runs the system ssh with the key and the known host of the VM, and exits as it does', async () => {
    const calls: Argv[] = [];
    const program = (argv: Argv) => {
      calls.push(argv);
      return 23;
    };
    const { status } = await cli('ssh web -L 8080:localhost:80 uptime -p', script, { program });
    assert.equal(status, 23);
    assert.deepEqual(calls, [
      ['ssh', ...sshArguments(access('web')), 'root@172.30.0.2', '-L', '8080:localhost:80', 'uptime', '-p'],
    ]);
  });

  it('takes the program from the configuration, and a -- before the command', async () => {
    const calls: Argv[] = [];
    const program = (argv: Argv) => calls.push(argv);
    await cli('ssh web -- ls -la', script, { program, env: { BANGER_PROGRAMS_SSH: '/opt/ssh' } });
    assert.equal(calls[0]?.[0], '/opt/ssh');
    assert.deepEqual(calls[0]?.slice(-3), ['root@172.30.0.2', 'ls', '-la']);
  });

  it('logs in as whom the user names, in each way of ssh', async () => {
    const destinationOf = async (words: string) => {
      const calls: Argv[] = [];
      await cli(words, script, { program: (argv: Argv) => calls.push(argv) });
      return calls[0]?.[sshArguments(access('web')).length + 1];
    };
    const cases: [string, string][] = [
      ['ssh app@web', 'app@172.30.0.2'],
      ['ssh app@WEB.vm.', 'app@172.30.0.2'],
      ['ssh web -l app', '172.30.0.2'],
      ['ssh web -vlapp', '172.30.0.2'],
      ['ssh web -p 22 -o User=app uptime', '172.30.0.2'],
      ['ssh web -ouser=app', '172.30.0.2'],
      ['ssh web -i -l uptime', 'root@172.30.0.2'],
      ['ssh web uptime -l app', 'root@172.30.0.2'],
      ['ssh web -o UserKnownHostsFile=/dev/null', 'root@172.30.0.2'],
    ];
    for (const [words, destination] of cases) assert.equal(await destinationOf(words), destination, words);
  });

  it('asks about a terminal that a guest may not know, and logs in with what that knows', async () => {
    const tried = async (TERM: string, term: string | null, options: CliOptions = {}) => {
      const asked: unknown[] = [];
      const given: unknown[] = [];
      const sshAccess = ({ query }: { query?: unknown }) => {
        asked.push(query ?? null);
        return { ...access('web'), term };
      };
      await cli(
        'ssh web',
        { sshAccess },
        { terminal: true, env: { TERM }, ...options, program: (_, choice) => given.push(choice?.env ?? null) },
      );
      return [asked, given];
    };
    const known = { TERM: 'xterm-256color' };
    for (const term of ['xterm-ghostty', 'xterm-kitty', 'tmux-direct', 'alacritty']) {
      assert.deepEqual(await tried(term, 'xterm-256color'), [[{ term }], [known]], term);
    }
    assert.deepEqual(await tried('foot', 'foot'), [[{ term: 'foot' }], [{ TERM: 'foot' }]]);
    // a guest that does not say: it gets what it would have got
    assert.deepEqual(await tried('foot', null), [[{ term: 'foot' }], [null]]);
    for (const term of ['xterm', 'xterm-256color', 'screen', 'tmux-256color', '', 'x'.repeat(65)]) {
      assert.deepEqual(await tried(term, null), [[null], [null]], term);
    }
    // ssh tells no terminal where there is none
    assert.deepEqual(await tried('xterm-kitty', null, { terminal: false }), [[null], [null]]);
  });

  it('says what it waits for while another operation has the guest, and is silent while the VM goes on', async () => {
    const waited = async (kind: string) => {
      const known = [operation({ id: '0', kind: 'vm.fork', target: 'db' }), operation({ id: 'op9', kind })];
      const said = Promise.withResolvers<void>();
      const late = {
        sshAccess: async () => {
          await said.promise;
          return access('web');
        },
        listOperations: () => {
          setImmediate(() => setImmediate(said.resolve));
          return known;
        },
      };
      return (await cli('ssh web', late, { program: () => 0 })).stderr;
    };
    assert.equal(
      await waited('snapshot.create'),
      'web has to wait for another operation, snapshot create (op9); the login begins then\n',
    );
    assert.equal(await waited('vm.resume'), '');
  });

  it('knows a VM by its name in DNS, in any case', async () => {
    const names: string[] = [];
    const remember = {
      sshAccess: ({ params }: { params: { name: string } }) => {
        names.push(params.name);
        return access(params.name);
      },
    };
    for (const name of ['WEB', 'web.vm', 'Web.VM.', 'www.web.vm', 'web.lab']) {
      await cli(`ssh ${name}`, remember, {
        program: () => 0,
        env: name === 'web.lab' ? { BANGER_DNS_ZONE: 'lab' } : {},
      });
    }
    assert.deepEqual(names, ['web', 'web', 'web', 'web', 'web']);
  });

  it('says what real ssh understands: strict checking, one key, paths with blanks', { skip: noSsh }, () => {
    const effective = execFileSync('ssh', ['-G', ...sshArguments(access('web')), 'root@172.30.0.2'], {
      encoding: 'utf8',
    });
    assertSshSettings(effective);
  });
});

describe('cp', () => {
  it('refuses what is no copy to or from a VM', async () => {
    for (const words of ['cp web:/x', 'cp a b', 'cp ./web:x b']) {
      assert.equal((await cli(words, script)).status, 2, words);
    }
  });

  it('takes a colon after a slash for part of a file name, as scp does', () => {
    assert.deepEqual(['web:x', 'web:', './a:b', '/a:b', 'a', ':x'].map(vmOfPath), [
      'web',
      'web',
      undefined,
      undefined,
      undefined,
      undefined,
    ]);
  });
});

describe('a program that takes over the terminal', () => {
  const noSignals = () => ({ [Symbol.dispose]: () => {} });

  it('gives its exit status, or that of the signal that ended it', async () => {
    const run = (code: string) => runInteractive([process.execPath, '-e', code], process.env, noSignals);
    assert.equal(await run('process.exit(7)'), 7);
    assert.equal(await run('process.kill(process.pid, "SIGKILL")'), 137);
  });

  it('says what to install when it is missing', async () => {
    await assert.rejects(runInteractive(['no-such-program'], process.env, noSignals), {
      code: 'host_unprepared',
      message: 'The program `no-such-program` is not installed.',
      hint: 'See what installs it here: banger doctor',
    });
  });
});

/** What `ssh -G` says it would do. */
function assertSshSettings(effective: string): void {
  for (const line of [
    'user root',
    'port 22',
    'stricthostkeychecking true',
    'identitiesonly yes',
    'hostkeyalias web.banger',
    'userknownhostsfile /state/web/known_hosts',
    'preferredauthentications publickey',
  ]) {
    assert.match(effective, new RegExp(`^${line.replaceAll('.', '\\.')}$`, 'm'));
  }
  // ssh prints the path before it expands the doubled percent sign
  assert.match(effective, /^identityfile \/state\/my keys\/id 100%%?$/m);
}
