/** VMs of OCI images that have nothing but a program, and what is done with them. */
import assert from 'node:assert/strict';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { createRunner } from '../../src/system/runner.ts';
import { hostSkip, TestHost, until } from '../support/host.ts';
import { tarOf, writeOciLayout } from '../support/oci-image.ts';

const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });
const skip = hostSkip('debugfs', 'skopeo', 'musl-gcc');

/** Says who it is, fails when it is told to, and goes on until it is asked to end. */
const APP = `#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static void asked(int number) { printf("app: signal %d\\n", number); fflush(stdout); exit(0); }
int main(int count, char **words) {
  char here[256];
  signal(SIGQUIT, asked);
  printf("app: %d:%d in %s says %s\\n", getuid(), getgid(), getcwd(here, sizeof here), getenv("GREETING"));
  fflush(stdout);
  if (count > 1 && strcmp(words[1], "fail") == 0) return 3;
  for (;;) pause();
}
`;

describe('an OCI image with one static program', { skip }, () => {
  let host: TestHost;
  let dir = '';

  before(async () => {
    host = await TestHost.create();
    dir = await mkdtemp('/tmp/bt-oci-');
    const root = join(dir, 'root');
    await mkdir(root);
    await writeFile(join(dir, 'app.c'), APP);
    await runner.run(['musl-gcc', '-static', '-Os', '-o', join(root, 'app'), join(dir, 'app.c')]);
    await chmod(join(root, 'app'), 0o755);
    const config = {
      ...{ Entrypoint: ['/app'], Env: ['GREETING=hello world', 'PATH=/opt'], User: '1000:2000' },
      ...{ WorkingDir: '/srv/data', StopSignal: 'SIGQUIT' },
    };
    await writeOciLayout(join(dir, 'layout'), { layers: [{ tar: tarOf(root) }], config });
    await host.daemon();
  });
  after(async () => {
    await host[Symbol.asyncDispose]();
    await rm(dir, { recursive: true, force: true });
  });

  const logs = async () => await host.ok('logs', 'app');

  it('runs it as the image says, and is reached although it has no shell', async () => {
    await host.ok('run', 'app', '--image', `oci:${join(dir, 'layout')}`, '--work-disk', 'none');
    await until('the program has spoken', async () =>
      (await logs()).includes('app: 1000:2000 in /srv/data says hello world'),
    );
    await host.fails(3, ['exec', 'app', '--', '/app', 'fail'], []);
    assert.equal((await host.ok('exec', 'app', '--', 'sh', '-c', 'echo $GREETING')).trim(), 'hello world');
    assert.match(await host.ok('ssh', 'app', '--', 'id'), /^uid=0/);
    await writeFile(join(dir, 'there'), 'and back');
    await host.ok('cp', join(dir, 'there'), 'app:/srv/');
    await host.ok('cp', 'app:/srv/there', join(dir, 'back'));
    assert.equal(await readFile(join(dir, 'back'), 'utf8'), 'and back');
  });

  it('ends by the signal that the image names, and keeps its disk', async () => {
    await host.ok('stop', 'app');
    assert.match(await logs(), /app: signal 3/);
    await host.ok('start', 'app');
    assert.equal(await host.ok('exec', 'app', '--', 'cat', '/srv/there'), 'and back');
  });

  it('is begun again when it fails, as whom and with what was asked for', async () => {
    const asked = ['--cmd', 'fail', '--user', '7', '--env', 'GREETING=other'];
    await host.ok('run', 'bad', '--image', 'layout', '--work-disk', 'none', ...asked);
    await until('it is begun again', async () =>
      /app: 7:0 in .* says other[\s\S]*status 3 and begins again/.test(await host.ok('logs', 'bad')),
    );
  });
});
