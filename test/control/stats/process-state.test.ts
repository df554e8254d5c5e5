import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { tcpPorts } from '../../../src/control/stats/ports.ts';
import { describeVolumes } from '../../../src/core/guest-process.ts';
import { healthEventOf, parseProcessState, processEventOf } from '../../../src/core/process-state.ts';

describe('the process of an image', () => {
  it('is what the agent has noted, or what systemd says of its unit', () => {
    assert.deepEqual(parseProcessState('state=waiting\npid=0\nrestarts=3\ndetail=status 3\n'), {
      ...{ state: 'waiting', detail: 'status 3', restarts: 3, health: null },
    });
    const unit = 'ActiveState=failed\nSubState=failed\nNRestarts=5\nExecMainCode=2\nExecMainStatus=9\n';
    assert.deepEqual(parseProcessState(unit), { state: 'failed', detail: 'signal 9', restarts: 5, health: null });
    assert.deepEqual(parseProcessState('ActiveState=active\nNRestarts=0\nExecMainCode=0\nExecMainStatus=0'), {
      ...{ state: 'running', detail: '', restarts: 0, health: null },
    });
    const ill = 'health=unhealthy\nfailures=3\nhealth-detail=status 1: no=answer\n';
    assert.deepEqual(parseProcessState(`state=running\ndetail=\n${ill}`)?.health, {
      ...{ state: 'unhealthy', detail: 'status 1: no=answer' },
    });
    assert.equal(parseProcessState('state=running\nhealth=constructor\n')?.health, null);
    for (const text of ['state=constructor\n', 'ActiveState=constructor\n'])
      assert.equal(parseProcessState(text), undefined);
    for (const text of ['', 'nothing', 'state=odd', 'restarts=1']) assert.equal(parseProcessState(text), undefined);
  });

  it('makes an event of what the console says of it, and of nothing else', () => {
    const said = (text: string) => processEventOf(`banger-init: service ${text}`);
    assert.deepEqual(said('started'), { state: 'running', detail: '' });
    assert.deepEqual(said('ended with status 3 and begins again in 2 s'), { state: 'waiting', detail: 'status 3' });
    assert.deepEqual(said('ended with status 0'), { state: 'ended', detail: 'status 0' });
    assert.deepEqual(said('ended with signal 9'), { state: 'failed', detail: 'signal 9' });
    assert.deepEqual(said('could not begin: /app: No such file or directory'), {
      ...{ state: 'failed', detail: '/app: No such file or directory' },
    });
    for (const text of ['service started', 'banger-init: ready', 'x banger-init: service started']) {
      assert.equal(processEventOf(text), undefined);
    }
  });

  it('is well or not by what the console says', () => {
    const said = (text: string) => healthEventOf(`banger-init: service is ${text}`);
    assert.deepEqual(said('healthy'), { state: 'healthy', detail: '' });
    assert.deepEqual(said('unhealthy: status 1: refused'), { state: 'unhealthy', detail: 'status 1: refused' });
    for (const text of ['well', 'healthy x', 'toString']) assert.equal(said(text), undefined);
    assert.equal(healthEventOf('banger-init: service started'), undefined);
  });

  it('has its volumes kept but for those that the guest needs itself', () => {
    const asked = [
      '/var/lib/postgresql/data/',
      '/data',
      '/data/sub',
      '/root/x',
      '/etc',
      '/',
      '/a/../b',
      '/proc/x',
      'rel',
      '/a b',
    ];
    assert.equal(describeVolumes(asked, '/root'), '/data\n/data/sub\n/var/lib/postgresql/data\n');
    assert.equal(describeVolumes(['/data', '/data/sub'], '/data'), '');
  });

  it('has the ports of TCP that its image names', () => {
    assert.deepEqual(
      tcpPorts(['80/tcp', '53/udp', '8080', '9000-9002/tcp', '0/tcp', '70000', 'x', '80']),
      [80, 8080, 9000, 9001, 9002],
    );
    assert.deepEqual(tcpPorts(['1-65535/tcp']), []);
  });
});
