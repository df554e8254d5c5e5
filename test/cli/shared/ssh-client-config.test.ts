import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdir, readFile, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { vmOfName } from '../../../src/cli/shared/vm-names.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { cli } from '../cli.ts';

const noSsh = spawnSync('ssh', ['-V']).error ? 'ssh is not installed here' : false;
const THEIRS = 'Host *.vm\n  User nobody\nHost *\n  ServerAliveInterval 30\n';

/** What ssh would do, by its own words. */
function settings(file: string, name: string): string {
  return execFileSync('ssh', ['-G', '-F', file, name], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
}

async function place(t: TestContext) {
  const directory = await tempDir(t);
  const home = join(directory, 'my 100% home');
  await mkdir(home);
  const main = join(directory, 'ssh', 'config');
  const run = (line: string, env = {}) =>
    cli([...line.split(' '), '--file', main], {}, { env: { BANGER_HOME: home, ...env } });
  return { home, main, run };
}

describe('ssh-config', () => {
  it('includes its settings before those of the user, so that they count', { skip: noSsh }, async (t) => {
    const { home, main, run } = await place(t);
    await mkdir(join(main, '..'));
    await writeFile(main, THEIRS, { mode: 0o640 });
    assert.match((await run('ssh-config --install')).stdout, /^Log in with: ssh NAME\.vm$/m);
    // ssh prints values as they are in the file, where a % is written twice
    const effective = settings(main, 'web.vm').replaceAll('%%', '%');
    for (const line of [
      'user root',
      `identityfile ${home}/state/ssh/id_ed25519`,
      'identitiesonly yes',
      'stricthostkeychecking true',
      `userknownhostsfile ${home}/state/ssh/known_hosts`,
      'serveraliveinterval 30',
    ]) {
      assert.ok(effective.split('\n').includes(line), `${line}\n${effective}`);
    }
    assert.match(effective, /^proxycommand env 'BANGER_HOME=.*' \/usr\/bin\/banger ssh-proxy --zone vm '%h'$/m);
    assert.doesNotMatch(settings(main, 'web.example'), /ssh-proxy/);
    assert.equal((await stat(main)).mode & 0o777, 0o640);
  });

  it('is the same after any number of times, and leaves the file as it was', async (t) => {
    const { main, run } = await place(t);
    for (const theirs of [THEIRS, '', '\n\n# mine\n']) {
      await mkdir(join(main, '..'), { recursive: true });
      await writeFile(main, theirs);
      await run('ssh-config --install');
      const once = await readFile(main, 'utf8');
      await run('ssh-config --install');
      assert.equal(await readFile(main, 'utf8'), once);
      await run('ssh-config --uninstall');
      assert.equal(await readFile(main, 'utf8'), theirs);
    }
    assert.match((await run('ssh-config --uninstall')).stdout, /^Nothing to remove: /);
  });

  it('makes the file where there is none, and follows one that is a link', async (t) => {
    const { main, run } = await place(t);
    await run('ssh-config --install');
    assert.match(await readFile(main, 'utf8'), /^# Written by .*\nInclude ".*state\/ssh\/config"\n/);
    await run('ssh-config --uninstall');
    assert.equal(await readFile(main, 'utf8'), '');

    const target = join(main, '..', 'dotfiles');
    await writeFile(target, THEIRS);
    const link = join(main, '..', 'link');
    await symlink(target, link);
    await cli(['ssh-config', '--install', '--file', link], {}, { env: { BANGER_HOME: join(main, '..') } });
    assert.match(await readFile(target, 'utf8'), /Include [\s\S]*ServerAliveInterval/);
  });

  it('is about the configured zone, and printed when nothing is to be installed', async (t) => {
    const { main, run } = await place(t);
    const { stdout } = await run('ssh-config', { BANGER_DNS_ZONE: 'test' });
    assert.match(stdout, /^Host \*\.test$/m);
    await assert.rejects(stat(main), /ENOENT/);
    assert.equal((await run('ssh-config --install --uninstall')).status, 2);
  });
});

describe('ssh-proxy', () => {
  it('takes every name below a VM for the VM', () => {
    for (const name of ['web', 'web.vm', 'WEB.vm', 'a.b.web.vm', 'web.vm.']) assert.equal(vmOfName(name, 'vm'), 'web');
    assert.equal(vmOfName('web.dev.example', 'dev.example'), 'web');
  });

  it('says why there is no way to a VM', async () => {
    const sshAccess = () => ({
      user: 'root',
      address: '127.0.0.1',
      port: 1,
      identityFile: '/k',
      knownHostsFile: '/h',
      hostKeyAlias: 'a',
      term: null,
    });
    const { status, stderr, stdout } = await cli('ssh-proxy web.vm --zone vm', { sshAccess });
    assert.deepEqual([status, stdout], [1, '']);
    assert.match(stderr, /^banger: web cannot be reached on 127\.0\.0\.1 port 1: .*ECONNREFUSED/);
    assert.match(stderr, /try: .*banger logs web/);
  });
});
