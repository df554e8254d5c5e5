/** What of a banger's things on the host belongs to nobody any more, and what only looks like that. */

/** What is on the host and in the records, as far as it could be left over. */
export interface Inventory {
  /** resources written down, in the order in which they were */
  ledger: readonly { owner: string; kind: string; name: string }[];
  /** ids of VMs; those with a run going on hold more than disks */
  vms: readonly { id: string; name: string; active: boolean }[];
  /** ids of deleted VMs that can still be had back */
  trash: readonly { id: string; name: string }[];
  /** names of directories below `store/vms`, with whether a disk is in them */
  directories: readonly { name: string; path: string; holdsDisk: boolean }[];
  /** directories of snapshots of which there is no record */
  snapshots: readonly { path: string; vmId: string }[];
  /** files below `run/vmm` whose VMM does not live */
  deadSockets: readonly { path: string; id: string }[];
  /** VMMs that serve a socket of ours */
  vmms: readonly { pid: number; socketPath: string; id: string }[];
  /** directories with memory of VMs that have none on record */
  memories: readonly { path: string; vmId: string; name: string }[];
  /** directories of templates of which there is no record */
  templates: readonly string[];
  /** network devices that are named as ours are */
  taps: readonly string[];
}

export interface Garbage {
  kind: 'ledger' | 'directory' | 'memory' | 'socket' | 'vmm' | 'tap';
  name: string;
  /** id of the VM that it is or was of, when there is one */
  owner?: string;
  /** sentence: whose it was, or why it is left alone */
  whose: string;
  /** `free`; `ask` takes data with it; `leave` is not ours to touch */
  verdict: 'free' | 'ask' | 'leave';
}

/** Kinds of the ledger that end with a run; the others are about disks. */
const OF_A_RUN: ReadonlySet<string> = new Set(['tap', 'vmm', 'cgroup']);

/** Owner of what all VMs share. */
const HOST_OWNER = 'host';

export function findGarbage(seen: Inventory): Garbage[] {
  const vms = new Map(seen.vms.map((vm) => [vm.id, vm]));
  const trash = new Map(seen.trash.map((vm) => [vm.id, vm]));
  const written = new Set(seen.ledger.map(({ kind, name }) => `${kind} ${name}`));

  const ledger = seen.ledger.flatMap<Garbage>(({ owner, kind, name }) => {
    if (owner === HOST_OWNER) return [];
    const entry = { kind: 'ledger' as const, name: `${kind} ${name}`, owner, verdict: 'free' as const };
    const vm = vms.get(owner);
    if (vm) {
      if (!OF_A_RUN.has(kind) || vm.active) return [];
      return [{ ...entry, whose: `a run of ${vm.name} that has ended` }];
    }
    const trashed = trash.get(owner);
    if (trashed) return !OF_A_RUN.has(kind) ? [] : [{ ...entry, whose: `${trashed.name}, which is in the trash` }];
    return [{ ...entry, whose: `VM ${owner}, which no longer exists` }];
  });

  const directories = seen.directories.flatMap<Garbage>(({ name, path, holdsDisk }) => {
    if (vms.has(name) || trash.has(name) || written.has(`directory ${path}`)) return [];
    return [
      {
        kind: 'directory',
        name: path,
        whose: holdsDisk
          ? `VM ${name}, of which there is no record but its disks`
          : `VM ${name}, of which there is no record`,
        verdict: holdsDisk ? 'ask' : 'free',
      },
    ];
  });

  const snapshots = seen.snapshots.flatMap<Garbage>(({ path, vmId }) => {
    const owner = vms.get(vmId) ?? trash.get(vmId);
    if (!owner || written.has(`snapshot ${path}`)) return [];
    const whose = `a snapshot of ${owner.name}, of which there is no record but its disks`;
    return [{ kind: 'directory', name: path, whose, verdict: 'ask' }];
  });

  const sockets = seen.deadSockets.flatMap<Garbage>(({ path, id }) =>
    vms.get(id)?.active || written.has(`vmm ${path}`)
      ? []
      : [
          {
            kind: 'socket',
            name: path,
            owner: id,
            whose: `a VMM of ${vms.get(id)?.name ?? `VM ${id}`} that has ended`,
            verdict: 'free',
          },
        ],
  );

  const vmms = seen.vmms.flatMap<Garbage>(({ pid, socketPath, id }) =>
    vms.get(id)?.active || written.has(`vmm ${socketPath}`)
      ? []
      : [
          {
            kind: 'vmm',
            name: `process ${pid} (${socketPath})`,
            owner: id,
            whose: `${vms.get(id)?.name ?? `VM ${id}`}, which should not run`,
            verdict: 'free',
          },
        ],
  );

  const taps = seen.taps.flatMap<Garbage>((name) =>
    written.has(`tap ${name}`)
      ? []
      : [{ kind: 'tap', name, whose: 'not ours: another banger or somebody else made it', verdict: 'leave' }],
  );
  const memories = seen.memories.map<Garbage>(({ path, vmId, name }) => ({
    ...{ kind: 'memory', name: path, owner: vmId, verdict: 'free' },
    whose: `memory of ${name}, which is not suspended`,
  }));
  const templates = seen.templates.map<Garbage>((path) => ({
    ...{ kind: 'directory', name: path, verdict: 'free' },
    whose: 'a template of which there is no record',
  }));
  return [...ledger, ...directories, ...snapshots, ...memories, ...templates, ...sockets, ...vmms, ...taps];
}
