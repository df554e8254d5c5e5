/** Commands and logins that go through the daemon now, by VM; in memory alone, as their connections end with the daemon. */
export interface Sessions {
  begin(vmId: string): Disposable;
  count(vmId: string): number;
  /** how many have begun as long as this daemon runs, also those that are over */
  begun(vmId: string): number;
}

export function createSessions(): Sessions {
  const open = new Map<string, number>();
  const begun = new Map<string, number>();
  const add = (vmId: string, by: number) => {
    const left = (open.get(vmId) ?? 0) + by;
    if (left > 0) open.set(vmId, left);
    else open.delete(vmId);
  };
  return {
    begin(vmId) {
      add(vmId, 1);
      begun.set(vmId, (begun.get(vmId) ?? 0) + 1);
      let ended = false;
      return {
        [Symbol.dispose]() {
          if (!ended) add(vmId, -1);
          ended = true;
        },
      };
    },
    count: (vmId) => open.get(vmId) ?? 0,
    begun: (vmId) => begun.get(vmId) ?? 0,
  };
}
