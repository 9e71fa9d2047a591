"""The virtual machine is what the tests beside this one take it for."""


def test_it_has_control_groups_of_version_2_alone_and_ext4(vm):
    assert "cgroup2fs" in vm.run(["stat", "--file-system", "--format=%T", "/sys/fs/cgroup"]).stdout
    assert " / ext4 " in vm.read("/proc/mounts")
    assert vm.failed() == []


def test_a_cut_of_its_power_loses_what_was_not_synced_and_nothing_else(vm):
    vm.write("/kept", "on the disk\n")
    vm.run(["sync"])
    vm.write("/lost", "in memory\n")
    vm.cut_power()
    vm.boot()
    assert vm.read("/kept") == "on the disk\n"
    assert vm.run(["cat", "/lost"], check=False).stdout != "in memory\n"
